"""Color MNIST: one digit in one random colour on a faintly noisy background."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from lightning_igm.data.color import check_noise, colorize
from lightning_igm.data.images import ImageDataModule
from lightning_igm.data.mnist import check_size, load_mnist, prepare_mnist
from lightning_igm.data.sampler import stream_seed


class ColorMNISTDataModule(ImageDataModule):
    """MNIST in random colours: one fixed draw of colour and noise for each digit.

    The data set of the Method of Learned Moments (Ravuri et al., 2018, https://arxiv.org/abs/1806.11006);
    the recipe is `lightning_igm.data.color.colorize_float`. The 60,000 training images and the
    10,000 test images come from different random draws of the same seed.

    Args:
        root: Folder that holds, or will hold, ``MNIST/raw/*-ubyte`` (or ``*-ubyte.gz``).
        download: Whether `prepare_data` downloads the files where they are missing.
        batch_size: Images per batch and process.
        size: 32 pads the 28x28 digits by 2 on each side before the noise; 28 does not.
        noise: Standard deviation of the noise.
        seed: Seed of the colours, the noise and the training order.
        value_range: Range of the float images.

    Raises:
        ValueError: If an argument is out of range, or a file does not hold what its name says.
        FileNotFoundError: If files are missing and may not, or cannot, be downloaded.

    Example:
        >>> mnist = ColorMNISTDataModule(batch_size=1000, size=32)
        >>> mnist.image_shape
        (3, 32, 32)
    """

    name = "color_mnist"
    num_classes = 10

    def __init__(
        self,
        root: str | Path = "data",
        download: bool = True,
        batch_size: int = 1000,
        size: int = 32,
        noise: float = 0.2,
        seed: int = 0,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__(batch_size, seed, value_range)
        check_size(size)
        check_noise(noise)
        self.root = Path(root)
        self.download = download
        self.noise = noise
        self.image_shape = (3, size, size)

    def prepare_data(self) -> None:
        """Downloads the files where they are missing and ``download`` is on."""
        prepare_mnist(self.root, self.download)

    def load_images(self) -> tuple[Tensor, Tensor]:
        """Returns the coloured digits; sets ``train_labels``, ``test_labels``, int64 ``(N,)``."""
        train, test = load_mnist(self.root, self.image_shape[1])
        self.train_labels, self.test_labels = train[1], test[1]
        return self._colored(train[0], 0), self._colored(test[0], 1)

    def _colored(self, digits: Tensor, stream: int) -> Tensor:
        return colorize(digits, stream_seed(self.seed, stream), self.noise)

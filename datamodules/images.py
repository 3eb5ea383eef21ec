"""Base class of the image data modules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_igm.data.base import InMemoryDataModule
from lightning_igm.data.dataset_images import Mode, check_mapped, class_count, read_dataset
from lightning_igm.data.examples import as_floats

VALUE_RANGES = ((0.0, 1.0), (-1.0, 1.0))


class ImageDataModule(InMemoryDataModule):
    """Images held as uint8, converted on the device.

    Batches leave the loaders as uint8 ``(B, C, H, W)``; `on_after_batch_transfer` makes them
    float32 in ``value_range``, after `transform`, which may augment them.

    A subclass implements `load_images`, and may override `prepare_data` for downloads.

    Args:
        batch_size: Images per batch **and process**; W processes together see W times as many.
        seed: Seed of the training order, and of whatever random draw makes the images.
        value_range: Range of the float images: (0, 1), or (-1, 1).

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> class Noise(ImageDataModule):
        ...     name = "noise"
        ...
        ...     def load_images(self):
        ...         images = torch.randint(256, (10, 3, 8, 8), dtype=torch.uint8)
        ...         return images, images
        >>> noise = Noise(batch_size=4)
        >>> noise.setup()
        >>> [tuple(batch.shape) for batch in noise.train_dataloader()]
        [(4, 3, 8, 8), (4, 3, 8, 8)]
    """

    name = "images"
    value_range: tuple[float, float]

    def __init__(
        self,
        batch_size: int,
        seed: int = 0,
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__(batch_size, seed)
        self.value_range = _checked_range(value_range)

    @staticmethod
    def from_dataset(
        dataset: Any,
        test: Any = None,
        batch_size: int = 100,
        seed: int = 0,
        value_range: tuple[float, float] | None = None,
        *,
        image_key: str = "image",
        label_key: str = "label",
        mode: Mode | None = None,
        float_range: tuple[float, float] | None = None,
        num_workers: int = 0,
    ) -> ImageDataModule:
        """Returns a data module of any map-style data set: of torchvision, Hugging Face, your own.

        `setup` reads every example once and keeps the images as uint8, so that training is as fast,
        and a resumed run as exact, as with the other data modules. Random transforms are drawn
        once for each image. An example is an image, a sequence that begins with one and goes on
        with a label, or a dictionary; an image is a PIL image, or a uint8 or float tensor or array,
        ``(C, H, W)``, ``(H, W, C)`` or ``(H, W)``, of 1 or 3 channels. All have one size.

        Args:
            dataset: The training split, with ``__len__`` and ``__getitem__``.
            test: The test split; without one, the training images serve again.
            batch_size: Images per batch and process.
            seed: Seed of the training order.
            value_range: Range of the float images that networks get: (0, 1), or (-1, 1). None for
                that which the data set's own float images have, and (0, 1) where it has none.
            image_key: Key of the image in a dictionary.
            label_key: Key of the label in a dictionary.
            mode: ``"L"`` for grey PIL images, ``"RGB"`` for colour; None for what the first one is.
            float_range: Range of the data set's own float images; None for (-1, 1) if there is a
                negative value among the first 256 images, and else (0, 1).
            num_workers: Processes that read.

        Returns:
            A data module with ``train_labels`` and ``test_labels``, int64 ``(N,)``, and
            ``num_classes``, known after `setup`; None if not every example has a whole number as
            label.

        Raises:
            ValueError: If an argument is out of range, there are no images, or, in `setup`, an
                image is none or unlike the others.

        Example:
            >>> import torch
            >>> from torch.utils.data import TensorDataset
            >>> pictures = TensorDataset(torch.rand(10, 3, 8, 8), torch.arange(10) % 4)
            >>> data = ImageDataModule.from_dataset(pictures, batch_size=5)
            >>> data.setup()
            >>> data.train_images.dtype, data.image_shape, data.num_classes
            (torch.uint8, (3, 8, 8), 4)
        """
        reading: dict[str, Any] = {
            "image_key": image_key,
            "label_key": label_key,
            "mode": mode,
            "float_range": float_range,
            "num_workers": num_workers,
        }
        return _DatasetImages(dataset, test, reading, batch_size, seed, value_range)

    @abstractmethod
    def load_images(self) -> tuple[Tensor, Tensor]:
        """Returns the training and the test images, each uint8 ``(N, C, H, W)``."""

    def load(self) -> tuple[Tensor, Tensor]:
        """Returns `load_images`."""
        return self.load_images()

    @property
    def train_images(self) -> Tensor:
        """The training images as they are stored, uint8 ``(N, C, H, W)``."""
        return self.train_data

    @property
    def test_images(self) -> Tensor:
        """The test images as they are stored, uint8 ``(N, C, H, W)``."""
        return self.test_data

    def transform(self, images: Tensor, numbers: Tensor | None) -> Tensor:
        """Returns the images as the networks see them; an augmentation overrides this.

        Args:
            images: uint8 ``(B, C, H, W)`` as stored, on the device.
            numbers: ``(B, random_numbers)``, uniform in [0, 1), for training images; None for test
                images. In training they are a function of seed, epoch, batch and the image's place
                in it; in a pass over all images in order, of seed and image. Neither the device nor
                the number of processes matters.

        Returns:
            uint8 ``(B, C, H', W')``.
        """
        return images

    def shape_of_example(self, examples: Tensor) -> tuple[int, ...]:
        """Returns ``(C, H, W)`` after `transform`."""
        return tuple(self.transform(examples[:1], None).shape[1:])

    def to_float(self, images: Tensor) -> Tensor:
        """Returns uint8 images as float32 in ``value_range``; any other tensor unchanged."""
        return as_floats(images, self.value_range)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Transforms and converts a batch of images on the device."""
        if isinstance(batch, Tensor):
            numbers = None
        elif self.random_numbers and isinstance(batch, list | tuple):
            batch, numbers = batch
        else:
            return batch
        return self.to_float(self.transform(batch, numbers))


class _DatasetImages(ImageDataModule):
    """The module that `ImageDataModule.from_dataset` returns."""

    train_labels: Tensor | None = None
    test_labels: Tensor | None = None

    def __init__(
        self,
        dataset: Any,
        test: Any,
        reading: dict[str, Any],
        batch_size: int,
        seed: int,
        value_range: tuple[float, float] | None,
    ) -> None:
        super().__init__(batch_size, seed, (0.0, 1.0) if value_range is None else value_range)
        self.keeps_range = value_range is None
        if (given := reading["float_range"]) is not None and not given[0] < given[1]:
            raise ValueError(f"float_range={given} must be two numbers, the smaller first")
        check_mapped(dataset, "dataset")
        if test is not None:
            check_mapped(test, "test")
        self.name = type(dataset).__name__
        self.datasets = dataset, test
        self.reading = reading

    def load_images(self) -> tuple[Tensor, Tensor]:
        """Returns the images; sets ``train_labels``, ``test_labels`` and ``num_classes``."""
        dataset, test = self.datasets
        train, self.train_labels, float_range = read_dataset(dataset, "dataset", **self.reading)
        if self.keeps_range and float_range in VALUE_RANGES:
            self.value_range = float_range
        self.num_classes = class_count(dataset, self.train_labels, self.reading["label_key"])
        if test is None:
            self.test_labels = self.train_labels
            return train, train
        images, self.test_labels, _ = read_dataset(test, "test", **self.reading)
        return train, images


def _checked_range(value_range: Sequence[float]) -> tuple[float, float]:
    for allowed in VALUE_RANGES:
        if tuple(value_range) == allowed:
            return allowed
    raise ValueError(f"value_range={value_range} must be (0, 1) or (-1, 1)")

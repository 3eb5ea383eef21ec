"""Any DataLoader or LightningDataModule in the place of the data modules here."""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_igm.data.examples import (
    Range,
    extremes,
    range_mismatch,
)
from lightning_igm.data.passes import (
    Loaders,
    Rows,
    is_mapped,
    loader_sources,
    to_device,
)

__all__ = [
    "LoaderData",
    "data_of",
    "is_stream",
    "stated_by",
    "to_device",
    "whole_data",
]

# It belongs to the trainer, and goes with it.
_KEPT = "_lightning_igm_data"


def data_of(trainer: Any) -> Any:
    """Returns a trainer's data as the data modules here give them.

    Args:
        trainer: A trainer.

    Returns:
        The trainer's data module if it has ``ordered_train_dataloader``; else a `LoaderData` of its
        loaders, the same one as long as they are the same; or what ``trainer.datamodule`` is if
        there are none.
    """
    data = getattr(trainer, "datamodule", None)
    if hasattr(data, "ordered_train_dataloader"):
        return data
    sources = loader_sources(trainer)
    if not sources:
        return data
    known: LoaderData | None = getattr(trainer, _KEPT, None)
    if known is None or not known.is_of(trainer, sources):
        known = LoaderData(trainer, sources)
        setattr(trainer, _KEPT, known)
    return known if known.has_loaders else data


def whole_data(trainer: Any) -> Any:
    """Returns a trainer's data, which must be able to give every training image once.

    Raises:
        ValueError: If they are not, or under ``Trainer(overfit_batches=...)``, which trains on some
            of a loader's images.
    """
    data = data_of(trainer)
    if not hasattr(data, "ordered_train_dataloader"):
        raise ValueError(
            f"data: {type(data).__name__} has no ordered_train_dataloader(), which must give "
            "every training image once, in order; give a DataLoader, or a data module"
        )
    if isinstance(data, LoaderData):
        if overfit_batches := trainer.overfit_batches:
            raise ValueError(
                f"overfit_batches={overfit_batches} is not supported; train on fewer images"
            )
        data.rows("train")
    return data


def stated_by(data: Any) -> tuple[tuple[int, ...] | None, Range | None]:
    """Returns the shape of an image and the range of values that a generator must make.

    Args:
        data: What `data_of` returned.

    Returns:
        ``(C, H, W)``, or None if it is not known; and the range, or None if there is none or it is
        the generator that decides.
    """
    if isinstance(data, LoaderData):
        data.prepare()
        return data.first_shape, data.declared_range
    return getattr(data, "image_shape", None), getattr(data, "value_range", None)


def is_stream(data: Any) -> bool:
    """Tells whether data come from a loader whose examples cannot be read by number."""
    return isinstance(data, LoaderData) and not is_mapped(data.loader("train"))


class LoaderData(Loaders):
    """Ordinary loaders as the data that methods and callbacks ask for.

    Batches are tensors ``(N, C, H, W)`` or points ``(N, D)``; sequences that begin with one; or
    dictionaries that have one under ``image``. Floats are taken as they are. uint8 images become
    floats on the device, in the range that the generator states (``value_range``) or its last
    activation implies, and in (0, 1) where it does neither. The first batch is read before
    training: if its floats are not in the generator's range, or have nothing below 0 where that
    begins at -1, one line says so.

    Passes over all images read the loader's data set: each example that its sampler gives, once,
    in order, with random transforms that depend on the example alone. Each of several processes
    reads a share of them, and none is repeated, unlike in training, where `DistributedSampler`
    repeats some so that all processes have as many. Training takes batches as the loader gives
    them: a run that resumes within an epoch begins the loader's order anew, which is said once.

    Args:
        trainer: Its loaders are meant.
        sources: Where Lightning takes them from, by what they are for.
    """

    random_numbers = 0

    def __init__(self, trainer: Trainer, sources: dict[str, Any]) -> None:
        super().__init__(trainer, sources)
        self._first: Tensor | None = None
        self._seen: tuple[int, ...] | None = None
        self._made_shape: tuple[int, ...] | None = None
        self._prepared = False

    @property
    def name(self) -> str:
        """Name of the data module, or of the data set's class."""
        if self.module is not None:
            return getattr(self.module, "name", None) or type(self.module).__name__
        loader = self.loader("train")
        return type(getattr(loader, "dataset", loader)).__name__

    # --- images ---------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Reads the first batch; says what is not as it should be, once.

        Raises:
            ValueError: If it is no batch of images.
        """
        if self._prepared or not self._sources.keys() - {"predict"}:
            return
        self._prepared = True
        fitting = self._running == TrainerFn.FITTING
        loader = self.loader("train" if fitting else "test")
        if is_mapped(loader):
            self._first = self.first_batch("train" if fitting else "test")
            self._seen = tuple(self._first.shape[1:])
            self._check_first(self._first)
        if fitting:
            self._tell_of_order(loader)
            self._tell_of_short_batch(loader)

    @property
    def first_shape(self) -> tuple[int, ...] | None:
        """Shape of the images; None of a stream, before training begins."""
        self.prepare()
        return self._seen

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of the images; of a stream, that of generated ones before training begins."""
        shape = self.first_shape or getattr(self.module, "image_shape", None) or self._made_shape
        if shape is None:
            model = self.trainer.lightning_module
            shape = model.sample(1, torch.Generator(model.device)).shape[1:]
            self._made_shape = tuple(shape)
        return tuple(shape)

    @property
    def declared_range(self) -> Range | None:
        """Range of values that the data module states; None if it states none."""
        return getattr(self.module, "value_range", None)

    @property
    def value_range(self) -> Range | None:
        """Range of values of the images, or None of points."""
        if len(self.image_shape) < 2:
            return None
        stated = self.declared_range or self._made_range
        if stated is not None:
            return stated
        floats = self._first is not None and self._first.is_floating_point()
        return (-1.0, 1.0) if floats and extremes(cast(Tensor, self._first))[0] < 0 else (0.0, 1.0)

    @property
    def _made_range(self) -> Range | None:
        return getattr(self.trainer.lightning_module, "made_range", None)

    def check(self, images: Tensor) -> None:
        """Checks a batch that is about to be used.

        Args:
            images: ``(N, C, H, W)``.

        Raises:
            ValueError: If they differ in shape from those before, or from generated ones.
        """
        shape = tuple(images.shape[1:])
        if self._seen is None:  # The first of a stream.
            self._seen = shape
            self._check_first(images)
            self.trainer.lightning_module._check_images(shape, None)
        elif shape != self._seen:
            raise ValueError(
                f"data: images of shape {shape} after {self._seen} are not allowed; all must have "
                "one size (torchvision: Resize and CenterCrop)"
            )

    def check_epoch(self) -> None:
        """Checks, after an epoch, that there was an image in it.

        Raises:
            ValueError: If there was none, of which training would never end.
        """
        if self._seen is None:
            raise ValueError("data: a training loader without images is not allowed")

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Returns a batch on a device, after the hooks that training batches go through."""
        return to_device(self.trainer, batch, device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Tensor:
        """Returns the images of a batch as the networks see them."""
        images: Tensor = self.trainer.lightning_module.images_of(batch)
        return images

    # --- passes over all of them ----------------------------------------------------------------

    @property
    def train_data(self) -> Rows:
        """The training examples."""
        return Rows(self, "train")

    @property
    def test_data(self) -> Rows:
        """The test examples: the validation loader's, and in ``trainer.test`` the test loader's.

        Where there are none, the training examples serve again.
        """
        return Rows(self, "test")

    def ordered_train_dataloader(self) -> DataLoader[Any]:
        """Returns every training example exactly once; a share of them on each process.

        Raises:
            ValueError: If the examples cannot be read by number.
        """
        return self.ordered("train")

    def test_dataloader(self) -> DataLoader[Any]:
        """Returns every test example exactly once; a share of them on each process."""
        return self.ordered("test")

    # --- the first batch ------------------------------------------------------------------------

    def _check_first(self, images: Tensor) -> None:
        channels = {axis for axis in (1, -1) if images.ndim == 4 and images.shape[axis] in (1, 3)}
        if channels == {-1}:
            raise ValueError(
                f"data: images of shape {tuple(images.shape[1:])} are not allowed; they must be "
                "(C, H, W), channels first"
            )
        if images.is_floating_point() and images.ndim > 2:
            line = range_mismatch(images, self.declared_range or self._made_range)
            if line:
                rank_zero_info(line)

    def _tell_of_order(self, loader: Any) -> None:
        if hasattr(loader, "load_state_dict"):
            return
        exact = "; ImageDataModule.from_dataset(its data set) is" if is_mapped(loader) else ""
        rank_zero_info(
            f"data: a {type(loader).__name__} decides the order of its batches: a run that resumes "
            f"within an epoch is not bit-exact{exact}"
        )

    def _tell_of_short_batch(self, loader: Any) -> None:
        world_size = self.trainer.world_size
        if is_mapped(loader) and not loader.drop_last and loader.batch_size is not None:
            left = len(self.rows("train")) % (loader.batch_size * world_size)
            if 0 < left <= world_size and loader.batch_size > 1:
                rank_zero_info(
                    "data: the last batch of an epoch has one image, too few for some methods; "
                    "give the loader drop_last=True"
                )

"""Base class of the data modules: examples in one tensor, batched by indexing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_igm.data.sampler import OrderedShare, ShuffledBatches, pass_numbers

Index = int | Tensor | tuple[Tensor, Tensor]
Batch = Tensor | tuple[Tensor, Tensor]


class _Examples(Dataset[Batch]):
    """Makes a batch by one tensor indexing, instead of one example at a time.

    Each example comes with its row of ``numbers``, if there are any.
    """

    def __init__(self, examples: Tensor, numbers: Tensor | None = None) -> None:
        self.examples = examples
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: Index) -> Batch:
        if isinstance(index, tuple):
            rows, numbers = index
            return self._take(rows), numbers
        return self.examples[index] if isinstance(index, int) else self._take(index)

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = torch.tensor(indices)
        return self._take(rows) if self.numbers is None else (self._take(rows), self.numbers[rows])

    def _take(self, rows: Tensor) -> Tensor:
        # Contiguous even where the examples are not, and several times as fast as brackets.
        return self.examples.index_select(0, rows)


class _ResumableLoader(DataLoader[Batch]):
    """Tells Lightning, which looks for these two methods, that a resume in mid-epoch is exact.

    There is nothing to save here: the position is the data module's.
    """

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def _as_is(batch: Any) -> Any:
    return batch


def _loader_options() -> dict[str, Any]:
    # Each iterator of a DataLoader draws one number, from the global generator if it has no other.
    return {"generator": torch.Generator(), "pin_memory": torch.cuda.is_available()}


class InMemoryDataModule(LightningDataModule, ABC):
    """Examples held in one tensor, in memory or mapped from a file, batched by one indexing.

    The training order is a pure function of seed and epoch, and the position in it (``epoch``,
    ``batches_trained``) is part of the checkpoint: whoever trains adds one to ``batches_trained``
    after each batch, and a resumed run sees the very next batch. There are no worker processes: one
    indexing a batch is cheaper than handing a batch from one process to another.

    A subclass implements `load`, and may override `prepare_data` for downloads.

    Args:
        batch_size: Examples per batch **and process**; W processes together see W times as many.
        seed: Seed of the training order, and of whatever random draw makes the examples.

    Attributes:
        name: Short name of the data set, as used in file names.
        num_classes: Number of labels, or None for data without.
        image_shape: Shape of one example, ``(C, H, W)`` of images; known after `setup` at the
            latest.
        value_range: Lowest and highest value of an example, or None where there is no such range.
        random_numbers: Uniform random numbers that come with each training example, for
            augmentation, in passes over all of them too; see `ImageDataModule.transform`.
        epoch: Passes over the training set completed.
        batches_trained: Batches of the current epoch already trained on.
        num_predictions: How many examples `predict_dataloader` returns; those of the test split by
            default.

    Raises:
        ValueError: If an argument is out of range.
    """

    name: str = "data"
    num_classes: int | None = None
    image_shape: tuple[int, ...]
    value_range: tuple[float, float] | None = None
    random_numbers: int = 0

    def __init__(self, batch_size: int, seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if seed < 0:
            raise ValueError(f"seed={seed} must not be negative")
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.batches_trained = 0
        self.num_predictions: int | None = None
        self._data: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def load(self) -> tuple[Tensor, Tensor]:
        """Returns the training and the test examples, each ``(N, ...)``."""

    def shape_of_example(self, examples: Tensor) -> tuple[int, ...]:
        """Returns the shape of one example as the networks see it."""
        return tuple(examples.shape[1:])

    def setup(self, stage: str | None = None) -> None:
        """Loads the examples, once for all stages.

        Raises:
            ValueError: If the training examples do not fill one batch, or the test examples have
                another shape.
        """
        if self._data is not None:
            return
        train, test = self.load()
        if train.shape[1:] != test.shape[1:]:
            raise ValueError(
                f"test images have shape {tuple(test.shape[1:])},"
                f" training images {tuple(train.shape[1:])}; they must agree"
            )
        if self.batch_size > len(train):
            raise ValueError(
                f"batch_size={self.batch_size} must be at most {len(train)},"
                " the number of training images"
            )
        self.image_shape = self.shape_of_example(train)
        self._data = (train, test)

    @property
    def train_data(self) -> Tensor:
        """The training examples as they are stored, ``(N, ...)``."""
        return self._loaded()[0]

    @property
    def test_data(self) -> Tensor:
        """The test examples as they are stored, ``(N, ...)``."""
        return self._loaded()[1]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Returns shuffled full batches; this process' rows of them if there are several.

        Raises:
            ValueError: If the batch of all processes together exceeds the training images, or under
                ``Trainer(overfit_batches=...)``, which would replace the order.
        """
        examples = _Examples(self.train_data)
        rank, world_size = self._rank_and_world_size()
        if self.batch_size * world_size > len(examples):
            raise ValueError(
                f"batch_size={self.batch_size} on {world_size} processes must be at most"
                f" {len(examples)} together, the number of training images"
            )
        if overfit_batches := getattr(self.trainer, "overfit_batches", 0):
            raise ValueError(
                f"overfit_batches={overfit_batches} is not supported; train on fewer images"
            )
        sampler = ShuffledBatches(
            examples, self.batch_size, self.seed, self, rank, world_size, self.random_numbers
        )
        return _ResumableLoader(examples, sampler=sampler, batch_size=None, **_loader_options())

    def ordered_train_dataloader(self) -> DataLoader[Batch]:
        """Returns every training example exactly once, in order, nothing dropped or repeated.

        The last batch may be short. Each of several processes gets a disjoint share; the shares
        differ by at most one, so weight what is averaged over them by the counts. With
        augmentation, each example has random numbers of its own, those of the seed alone: every
        pass, on any number of processes and in batches of any size, is the same.
        """
        numbers = None
        if self.random_numbers:
            numbers = pass_numbers(len(self.train_data), self.seed, self.random_numbers)
        return self._ordered(self.train_data, numbers)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Returns the test examples in order; each of several processes gets a disjoint share."""
        return self._ordered(self.test_data)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Returns the test examples in order."""
        return self._ordered(self.test_data)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Returns as many examples as are to be generated; by default the test examples."""
        examples = self.test_data
        if self.num_predictions is not None:
            examples = examples[:1].expand(self.num_predictions, *examples.shape[1:])
        return self._ordered(examples)

    def state_dict(self) -> dict[str, Any]:
        """Returns the position in the training data, and within an epoch what a batch is."""
        position = {"epoch": self.epoch, "batches_trained": self.batches_trained}
        return position | ({"batch_size": self._whole_batch()} if self.batches_trained else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes to a position returned by `state_dict`.

        With batches of another size it is the first batch behind all images trained on, so that no
        image comes twice in an epoch.
        """
        for name in ("epoch", "batches_trained"):
            if name not in state_dict:
                raise ValueError(
                    f"ckpt_path: the checkpoint has no {name!r} of the data; another version of "
                    "lightning_igm wrote it, resume with that"
                )
        self.epoch = state_dict["epoch"]
        self.batches_trained = state_dict["batches_trained"]
        now = self._whole_batch()
        then = state_dict.get("batch_size", now)
        if then != now:
            self._resume_with_other_batches(then, now)

    def _resume_with_other_batches(self, then: int, now: int) -> None:
        trained = self.batches_trained * then
        self.batches_trained = -(-trained // now)
        start = self.batches_trained * now
        where = f"resumes at image {start} (images left out before it: {start - trained})"
        if start + now > len(self.train_data):
            self.epoch, self.batches_trained = self.epoch + 1, 0
            where = "begins"
        rank_zero_info(
            f"data.batch_size: {then} images in the checkpoint, {now} now, of all processes "
            f"together; epoch {self.epoch} {where}"
        )

    def _whole_batch(self) -> int:
        """Returns the size of the batch of all processes together."""
        return self.batch_size * self._rank_and_world_size()[1]

    def _ordered(self, tensor: Tensor, numbers: Tensor | None = None) -> DataLoader[Batch]:
        data = _Examples(tensor, numbers)
        return DataLoader(
            data,
            sampler=OrderedShare(data, *self._rank_and_world_size()),
            batch_size=self.batch_size,
            collate_fn=_as_is,
            **_loader_options(),
        )

    def _rank_and_world_size(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _loaded(self) -> tuple[Tensor, Tensor]:
        if self._data is None:
            raise RuntimeError(f"call {type(self).__name__}.setup() before reading its data")
        return self._data

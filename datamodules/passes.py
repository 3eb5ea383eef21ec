"""Passes over the data sets of ordinary loaders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
)

from lightning_igm.data.examples import Seeded, image_tensor, last_line, mapped_length, seeded
from lightning_igm.data.sampler import OrderedShare

_BATCH_SIZE = 100  # Where a loader has none.
# Which loaders a data module has after its setup for a stage, and the stage that each needs.
_READY: dict[Any, tuple[str, ...]] = {
    TrainerFn.FITTING: ("train", "val"),
    TrainerFn.VALIDATING: ("val",),
    TrainerFn.TESTING: ("test",),
}
_STAGES = {"train": "fit", "val": "validate", "test": "test", "predict": "predict"}
_LOOPS = {
    "train": "fit_loop",
    "val": "validate_loop",
    "test": "test_loop",
    "predict": "predict_loop",
}
_WORDS = {"train": "training", "val": "validation"}


def to_device(trainer: Any, batch: Any, device: torch.device | None = None) -> Any:
    """Returns a batch after the hooks that training batches go through.

    Args:
        trainer: The trainer that trains on such batches.
        batch: As its loader gave it.
        device: Where to; the trainer's by default.
    """
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, device, dataloader_idx=0)


def loader_sources(trainer: Any) -> dict[str, Any]:
    """Returns where Lightning takes loaders from, by what they are for, whether there are any."""
    loops = {name: getattr(trainer, loop, None) for name, loop in _LOOPS.items()}
    return {name: loop._data_source for name, loop in loops.items() if loop is not None}


class Loaders:
    """A trainer's loaders, and passes over all examples of theirs.

    Args:
        trainer: Its loaders are meant.
        sources: Where Lightning takes them from, by what they are for.
    """

    def __init__(self, trainer: Trainer, sources: dict[str, Any]) -> None:
        self.trainer: Any = trainer
        """The trainer whose loaders are meant."""
        self._instances = [source.instance for source in sources.values()]
        self._sources = {
            name: source
            for name, source in sources.items()
            if source.instance is not None and source.is_defined()
        }
        self._loaders: dict[str, Any] = {}
        self._rows: dict[str, Sequence[int]] = {}
        self._running = trainer.state.fn
        self.module: Any = getattr(trainer, "datamodule", None)
        """The LightningDataModule, if there is one."""

    def is_of(self, trainer: Any, sources: dict[str, Any]) -> bool:
        """Tells whether stage and sources are still those that these data are of."""
        pairs = zip(self._instances, sources.values(), strict=True)
        return self._running == trainer.state.fn and all(
            instance is source.instance for instance, source in pairs
        )

    @property
    def has_loaders(self) -> bool:
        """Whether there is a loader."""
        return bool(self._sources)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        # A copy of a trainer, in a process that it starts, makes its own.
        return type(None), ()

    def rows(self, split: str) -> Sequence[int]:
        """Returns the numbers of the examples that a pass reads, in order.

        Args:
            split: ``train`` or ``test``.

        Raises:
            ValueError: If the examples cannot be read by number, or there are none.
        """
        loader = self.loader(split)
        if not is_mapped(loader):
            dataset = getattr(loader, "dataset", loader)
            raise ValueError(
                f"data: a {type(loader).__name__} of a {type(dataset).__name__} is not allowed "
                "where all images are needed (MoLM, ImageMetrics, KIDLearningRate); it must be a "
                "DataLoader with a batch size, of a data set with __len__ and __getitem__"
            )
        if split not in self._rows:
            rows = rows_of(loader)
            if not len(rows):
                raise ValueError(
                    f"data: a {type(loader.dataset).__name__} without images is not allowed; the "
                    f"{_WORDS.get(split, split)} loader must have one or more"
                )
            self._rows[split] = rows
        return self._rows[split]

    def examples(self, split: str) -> Seeded:
        """Returns the data set of a split, as a pass reads it."""
        return Seeded(self.loader(split).dataset, self.rows(split))

    def ordered(self, split: str) -> DataLoader[Any]:
        """Returns this process's share of a split, in order.

        Args:
            split: ``train`` or ``test``.
        """
        examples = self.examples(split)
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        share = OrderedShare(examples, rank, world_size)
        return loader_like(self.loader(split), examples, share)

    def first_batch(self, split: str) -> Tensor:
        """Returns the images of a first batch on the CPU, read apart from all others.

        Args:
            split: ``train`` or ``test``.

        Raises:
            ValueError: If there is none.
        """
        loader, examples = self.loader(split), self.examples(split)
        size = batch_size_of(loader)
        if split == "train" and loader.drop_last and len(examples) < size:
            raise ValueError(
                f"data: the loader gives no batch; there are {len(examples)} images, batch_size is "
                f"{size} and drop_last is set"
            )
        first = loader_like(loader, examples, range(min(size, len(examples))), workers=1)
        try:
            batch = next(iter(first))
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            raise ValueError(
                f"data: the first batch cannot be made ({last_line(error)}); all images must be "
                "tensors of one size (torchvision: Resize, CenterCrop and ToTensor)"
            ) from error
        return image_tensor(to_device(self.trainer, batch, torch.device("cpu")))

    def loader(self, split: str) -> Any:
        """Returns the loader of a split, or another where there is none."""
        if split not in self._loaders:
            testing = self._running == TrainerFn.TESTING
            order = ["test", "val"] if testing else ["val", "test"]
            order = ["train", *order] if split == "train" else [*order, "train"]
            found = next(name for name in [*order, "predict"] if name in self._sources)
            if (found == "train") != (split == "train"):
                wanted, other = (_WORDS.get(name, name) for name in (split, found))
                rank_zero_info(f"data: there is no {wanted} loader; the {other} loader serves")
            self._loaders[split] = self._requested(found)
        return self._loaders[split]

    def _requested(self, name: str) -> Any:
        if self.module is not None and name not in _READY.get(self._running, (name,)):
            self.module.setup(_STAGES[name])
        loader = self._sources[name].dataloader()
        if isinstance(loader, CombinedLoader):
            loader = loader.flattened
        several = list(loader.values()) if isinstance(loader, dict) else loader
        if not isinstance(several, list | tuple):
            return loader
        if len(several) != 1 and name == "train":
            raise ValueError(
                f"data: {len(several)} training loaders are not allowed; it must be one"
            )
        return several[0]


class Rows:
    """Examples of a split, to be counted, and read by number in floats.

    Args:
        data: The loaders, with the hook that makes images of a batch.
        split: ``train`` or ``test``.
    """

    def __init__(self, data: Any, split: str) -> None:
        self.data = data
        self.split = split
        self.rows = data.rows(split)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        numbers = torch.arange(len(self))[index].tolist()
        examples = self.data.examples(self.split)
        batch = self.data.loader(self.split).collate_fn([examples[number] for number in numbers])
        batch = to_device(self.data.trainer, batch, torch.device("cpu"))
        images: Tensor = self.data.on_after_batch_transfer(batch, 0)
        return images


def is_mapped(loader: Any) -> bool:
    """Tells whether single examples of a loader can be read by number and batched by it."""
    if not isinstance(loader, DataLoader) or mapped_length(loader.dataset) is None:
        return False
    return loader.batch_sampler is not None


def batch_size_of(loader: DataLoader[Any]) -> int:
    """Returns the size of a loader's batches, or of a pass's where they differ in size."""
    own = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    return own or _BATCH_SIZE


def rows_of(loader: DataLoader[Any]) -> Sequence[int]:
    """Returns the examples that an epoch of a loader goes through, each process's the same."""
    count = cast(int, mapped_length(loader.dataset))
    batches: Any = loader.batch_sampler
    own = type(batches) is not BatchSampler
    # Of a loader that was given batches, loader.sampler is not theirs.
    sampler: Any = loader.sampler if own else batches.sampler
    everything = isinstance(sampler, SequentialSampler | DistributedSampler) or (
        type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == count
    )
    if everything and not own:
        return range(count)
    # What is drawn here must be the same on every process, and must not be missed in training.
    generator = getattr(getattr(batches, "sampler", sampler), "generator", None)
    state = None if generator is None else generator.get_state()
    with seeded(0):
        try:
            if generator is not None:
                generator.manual_seed(0)
            drawn = [row for batch in batches for row in batch] if own else list(sampler)
        finally:
            if generator is not None:
                generator.set_state(state)
    return [int(row) for row in drawn]


def loader_like(
    loader: DataLoader[Any], examples: Seeded, sampler: Iterable[int], workers: int | None = None
) -> DataLoader[Any]:
    """Returns a loader that reads other examples as a loader does, and moves no random state."""
    used = loader.num_workers if workers is None else min(workers, loader.num_workers)
    processes: dict[str, Any] = {}
    if used:
        processes = {
            "num_workers": used,
            "worker_init_fn": loader.worker_init_fn,
            "multiprocessing_context": loader.multiprocessing_context,
            "prefetch_factor": loader.prefetch_factor,
            "timeout": loader.timeout,
        }
    return DataLoader(
        examples,
        batch_size=batch_size_of(loader),
        sampler=cast(Any, sampler),
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory and torch.cuda.is_available(),
        generator=torch.Generator(),
        **processes,
    )

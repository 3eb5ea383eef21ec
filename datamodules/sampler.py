"""Which images make up which batch: pure functions of a seed, a position and a rank."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler


class Position(Protocol):
    """Where training stands in the data: the epoch, and the batches of it already trained on."""

    epoch: int
    batches_trained: int


def stream_seed(seed: int, *stream: int) -> int:
    """Returns the seed of one of many independent random streams that a single seed stands for.

    Unlike ``seed + stream``, two neighbouring seeds never share a stream. Zeros at the end of
    ``stream`` do not count.

    Example:
        >>> stream_seed(0, 1) == stream_seed(1, 0)
        False
    """
    return int(np.random.SeedSequence((seed, *stream)).generate_state(1, np.uint64)[0])


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Returns the shuffled order ``(count,)`` of one epoch, from a generator of its own.

    Example:
        >>> sorted(epoch_order(4, seed=0, epoch=7).tolist())
        [0, 1, 2, 3]
    """
    generator = torch.Generator().manual_seed(stream_seed(seed, epoch))
    return torch.randperm(count, generator=generator)


def pass_numbers(count: int, seed: int, width: int) -> Tensor:
    """Returns the uniform random numbers ``(count, width)`` of a pass over all examples in order.

    Example:
        >>> pass_numbers(2, seed=0, width=3).shape
        torch.Size([2, 3])
    """
    # Training has no stream of this form: its batches count from 1.
    generator = torch.Generator().manual_seed(stream_seed(seed, 0, 0, 1))
    return torch.rand((count, width), generator=generator)


Rows = Tensor | tuple[Tensor, Tensor]


class ShuffledBatches(DistributedSampler[Rows]):
    """Index batches ``(batch_size,)`` of one epoch, in an order of seed and epoch alone.

    Batch ``b`` of ``world_size`` ranks is, all ranks together, the batch ``b`` of one process with
    the batch size ``world_size * batch_size``; each rank takes its own rows of it, and what does
    not fill a last batch is dropped. A fresh iterator begins behind the batches that ``position``
    counts as trained on, so a resumed run sees the very next batch. An epoch that was trained to
    its end, or whose iterator gave all it had, is followed by the next one.

    It is a `DistributedSampler` because Lightning replaces any other kind under several processes.

    Args:
        images: The data set; only its length matters.
        batch_size: Images per batch and process.
        seed: Seed of the order.
        position: Read when an iterator starts; moved to the next epoch when one ends.
        rank: Index of this process.
        world_size: Number of processes.
        random_numbers: If not 0, each batch of indices comes with so many uniform random numbers
            per index, ``(batch_size, random_numbers)``: those of one process's batch, too.
    """

    def __init__(
        self,
        images: Dataset[Any],
        batch_size: int,
        seed: int,
        position: Position,
        rank: int = 0,
        world_size: int = 1,
        random_numbers: int = 0,
    ) -> None:
        super().__init__(images, num_replicas=world_size, rank=rank, seed=seed, drop_last=True)
        self.count = len(cast(Sized, images))
        self.batch_size = batch_size
        self.position = position
        self.random_numbers = random_numbers
        self._gave_last = False

    def __len__(self) -> int:
        return self.count // (self.batch_size * self.num_replicas)

    def __iter__(self) -> Iterator[Rows]:
        # Lightning stops after len(self) batches without asking for one more, so an epoch's end is
        # often seen only here, at the start of the next iterator.
        if self._gave_last or self.position.batches_trained >= len(self):
            self._next_epoch()
        order = epoch_order(self.count, self.seed, self.position.epoch)
        for batch in range(self.position.batches_trained, len(self)):
            self._gave_last = batch + 1 == len(self)
            start = (batch * self.num_replicas + self.rank) * self.batch_size
            rows = order[start : start + self.batch_size]
            yield (rows, self._numbers(batch)) if self.random_numbers else rows
        self._next_epoch()

    def _numbers(self, batch: int) -> Tensor:
        seed = stream_seed(self.seed, self.position.epoch, 1 + batch)
        generator = torch.Generator().manual_seed(seed)
        shape = (self.num_replicas, self.batch_size, self.random_numbers)
        return torch.rand(shape, generator=generator)[self.rank]

    def _next_epoch(self) -> None:
        self.position.epoch += 1
        self.position.batches_trained = 0
        self._gave_last = False


class OrderedShare(DistributedSampler[int]):
    """The indices of one process' contiguous share of the images, in order.

    The shares are disjoint, cover every image exactly once, differ by at most one image and are
    never padded, unlike those of `DistributedSampler` itself.

    Args:
        images: The data set; only its length matters.
        rank: Index of this process.
        world_size: Number of processes.
    """

    def __init__(self, images: Dataset[Any], rank: int = 0, world_size: int = 1) -> None:
        super().__init__(images, num_replicas=world_size, rank=rank, shuffle=False)
        count = len(cast(Sized, images))
        self.share = range(count * rank // world_size, count * (rank + 1) // world_size)

    def __len__(self) -> int:
        return len(self.share)

    def __iter__(self) -> Iterator[int]:
        return iter(self.share)

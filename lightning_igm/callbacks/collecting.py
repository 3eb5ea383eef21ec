"""One pass over generated or real images for all scores, shared by all processes."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from tqdm import tqdm

from lightning_igm.callbacks.ema import evaluation_weights
from lightning_igm.callbacks.features import generated_images
from lightning_igm.distributed import rank, world_size
from lightning_igm.metrics.collection import Collection, Measures, Part, collect
from lightning_igm.metrics.extractors import identity
from lightning_igm.metrics.images import image_data, prepared_images, to_uint8
from lightning_igm.metrics.statistics_cache import StatisticsCache

__all__ = [
    "Split",
    "Weights",
    "cache_folder",
    "collect_generated",
    "collect_real",
    "count_real",
    "is_augmented",
]

Split = Literal["train", "test"]
Weights = Literal["average", "raw"]

_DELAY = 5  # Seconds before a bar appears.


def collect_generated(
    measures: Measures,
    trainer: Trainer,
    pl_module: LightningModule,
    *,
    num_samples: int,
    batch_size: int,
    seed: int,
    weights: Weights,
    sums: bool,
) -> Collection:
    """Generate images and collect their rows; each process does its share of the batches.

    All processes generate with the buffers of the first: running statistics of batch normalisation
    differ between processes. Samples that leave the data's range are clamped, and that is said.

    Args:
        measures: What to collect.
        trainer: The trainer whose data module states the range of values.
        pl_module: The module that generates.
        num_samples: Number of images.
        batch_size: Images generated at a time.
        seed: Seed of the latents.
        weights: ``average`` for the averaged generator if there is one, ``raw`` for the trained.
        sums: Whether moments are wanted.
    """
    value_range = image_data(trainer).value_range

    def parts() -> Iterator[Part]:
        for start, images in generated_images(
            trainer,
            pl_module,
            num_samples=num_samples,
            batch_size=batch_size,
            seed=seed,
            shared=True,
        ):
            flat = images.flatten(1).float()
            rows = measures(to_uint8(images, value_range))
            yield start, rows | {"extremes": torch.stack([flat.amin(1), flat.amax(1)], 1)}

    average = evaluation_weights(trainer, pl_module) if weights == "average" else nullcontext()
    rounds = -(-num_samples // (batch_size * world_size()))
    with average, _buffers_of_the_first(pl_module):
        shown = _with_bar(parts(), rounds, "Generating and scoring", trainer)
        fake = collect(shown, num_samples, rounds, sums=sums)
    if fake.rows:
        _tell_of_extremes(fake.rows["extremes"], value_range)
    return fake


def collect_real(
    measures: Measures,
    trainer: Trainer,
    device: torch.device,
    *,
    split: Split,
    folder: Path | None,
    sums: bool,
) -> Collection:
    """Collect rows of all real images of a split, or take them from the folder's file.

    Training images are those that are trained on: augmented if the data module augments them, by
    its seed. The file's name depends on the data set, the split and every image as the extractor
    sees it, so that no preparation is left out; on the extractor, its weights and its compiler; and
    on what is collected.

    Args:
        measures: What to collect.
        trainer: The trainer whose data module has the images.
        device: Where to compute.
        split: Which images.
        folder: Where the file is; None to do without.
        sums: Whether moments are wanted.
    """
    data = image_data(trainer)
    if folder is None:
        return _collected_real(measures, trainer, device, split, sums)
    cache = StatisticsCache(folder, _key(measures, data, device, split, sums))
    with cache.locked() if rank() == 0 else nullcontext():
        real = cache.load() if rank() == 0 else None
        [there] = _from_the_first([real is not None])
        if not there:
            real = _collected_real(measures, trainer, device, split, sums)
            if rank() == 0:
                cache.save(real)
    return real or Collection(0)


def count_real(data: Any, split: Split) -> int | None:
    """Number of real images, or None if the data module does not tell."""
    images = getattr(data, f"{split}_data", None)
    return None if images is None else len(images)


def is_augmented(data: Any, split: Split) -> bool:
    """Whether the real images of a split are augmented at random, as they are in training."""
    return split == "train" and getattr(data, "random_numbers", 0) > 0


def cache_folder(data: Any) -> Path | None:
    """Where statistics of a data set on disk are kept: ``scores`` in its folder."""
    folder = getattr(data, "cache_dir", None) or getattr(data, "root", None)
    return None if folder is None else Path(folder) / "scores"


def _collected_real(
    measures: Measures, trainer: Trainer, device: torch.device, split: Split, sums: bool
) -> Collection:
    data = image_data(trainer)
    loader = _loader(data, split)
    shares = _all_objects((len(loader.sampler), len(loader)))
    start = sum(count for count, _ in shares[: rank()])
    rounds = max(batches for _, batches in shares)

    def parts() -> Iterator[Part]:
        position = start
        for images in prepared_images(loader, data, device):
            yield position, measures(images)
            position += len(images)

    shown = _with_bar(parts(), rounds, "Real images", trainer)
    return collect(shown, sum(count for count, _ in shares), rounds, sums=sums)


def _loader(data: Any, split: Split) -> Any:
    return data.ordered_train_dataloader() if split == "train" else data.test_dataloader()


def _key(
    measures: Measures, data: Any, device: torch.device, split: Split, sums: bool
) -> dict[str, Any]:
    """All that a collection of real images depends on."""
    return {
        "data": getattr(data, "name", type(data).__name__),
        "split": split,
        "images": _fingerprint(data, device, split),
        "extractor": identity(measures.extractor),
        "digits": None if measures.digits is None else identity(measures.digits),
        "rows": sorted(measures.names),
        "sums": sums,
        **({"compile": measures.compiler} if measures.compiler else {}),
    }


def _fingerprint(data: Any, device: torch.device, split: Split) -> str:
    """Count and hash of all images in order, as prepared, whatever the number of processes."""
    loader = _loader(data, split)
    shares = _all_objects(len(loader.sampler))
    position, total = sum(shares[: rank()]), 0
    for images in prepared_images(loader, data, device):
        for image in images.cpu().contiguous().numpy():
            digest = hashlib.blake2b(image.data, digest_size=16, salt=position.to_bytes(16))
            total += int.from_bytes(digest.digest())
            position += 1
    return f"{sum(shares)}-{sum(_all_objects(total)) % 2**128:032x}"


@contextmanager
def _buffers_of_the_first(pl_module: LightningModule) -> Iterator[None]:
    """Give all processes the first one's buffers, and their own back."""
    if world_size() == 1:
        yield
        return
    own = [(buffer, buffer.clone()) for buffer in pl_module.buffers()]
    try:
        for buffer, _ in own:
            dist.broadcast(buffer, 0)
        yield
    finally:
        for buffer, value in own:
            buffer.copy_(value)


def _tell_of_extremes(extremes: Tensor, value_range: tuple[float, float]) -> None:
    low, high = value_range
    slack = 1e-3 * (high - low)
    broken = ~extremes.isfinite().all(1)
    beyond = ~broken & ((extremes[:, 0] < low - slack) | (extremes[:, 1] > high + slack))
    total = f"of {len(extremes):,} generated images"
    if broken.any():
        rank_zero_info(f"metrics: {int(broken.sum()):,} {total} are not finite; scores are NaN")
    if beyond.any():
        found = f"[{extremes[beyond, 0].min():.3g}, {extremes[beyond, 1].max():.3g}]"
        rank_zero_info(
            f"metrics: {int(beyond.sum()):,} {total} have values outside the data's "
            f"[{low:g}, {high:g}], in {found}; they are clamped"
        )


def _with_bar(parts: Iterable[Part], rounds: int, what: str, trainer: Trainer) -> Iterator[Part]:
    """The same parts, with a bar on the first process if that takes a while."""
    hidden = not trainer.is_global_zero or trainer.progress_bar_callback is None
    yield from tqdm(parts, what, rounds, leave=False, disable=hidden, delay=_DELAY)


def _all_objects(value: Any) -> list[Any]:
    """The values of all processes."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def _from_the_first(values: list[Any]) -> list[Any]:
    if world_size() > 1:
        dist.broadcast_object_list(values)
    return values

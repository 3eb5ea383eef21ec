"""The classes alone, and in a module that is not ours: two ranks give one rank's numbers."""

import tempfile

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torchmetrics import MetricCollection
from two_ranks import started

from lightning_igm.distributed import rank, world_size
from lightning_igm.metrics import (
    ColorDivergence,
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    ModeCoverage,
    MultiScaleSSIM,
    PrecisionRecall,
)

COUNT = 50


def images(seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(256, (COUNT, 3, 28, 28), generator=draw, dtype=torch.uint8)


def collection():
    return MetricCollection(
        [
            FrechetDistance(),
            KernelDistance(20, 5),
            InceptionScore(3),
            PrecisionRecall(),
            MultiScaleSSIM(30),
            ModeCoverage(),
            ColorDivergence(),
        ]
    )


def extract(batch):
    means = batch.float().mean((2, 3)) / 255
    return {"features": means, "logits": 40 * means, "images": batch}


def shares(kind):
    """Rows of this rank, and whether it tells their positions."""
    every = torch.arange(COUNT)
    if world_size() == 1:
        return every, False
    if kind == "strided":
        return every[rank() :: 2], True
    cut = {"unequal": 31, "none": COUNT}[kind]
    return (every[:cut] if rank() == 0 else every[cut:]), False


def scores(kind):
    """Twice, with other samples in between: syncing must leave a rank's own rows alone."""
    metrics, made = collection(), []
    rows, told = shares(kind)
    for _ in range(2):
        for seed, real in ((1, True), (2, False)):
            for part in rows.split(8) if len(rows) else ():
                index = {"index": part} if told else {}
                metrics.update(**extract(images(seed)[part]), real=real, **index)
        if len(rows) == 0:
            for metric in metrics.values(copy_state=False):
                metric._update_count = 1  # Else torchmetrics warns, rightly.
        made.append({name: float(value) for name, value in metrics.compute().items()})
        made.append({name: float(value) for name, value in metrics.compute().items()})
        metrics.reset()
    assert made[0] == made[1] == made[2] == made[3]
    return made[0]


@pytest.fixture(scope="module")
def ranks():
    return started(2)


@pytest.mark.parametrize("kind", ["unequal", "none", "strided"])
def test_two_ranks_give_one_ranks_numbers(ranks, kind):
    expected = scores(kind)
    first, second = ranks.run(scores, kind)
    assert first == second == pytest.approx(expected, rel=1e-6, abs=1e-12)


class Foreign(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.metrics = nn.Linear(1, 1), collection()

    def validation_step(self, batch, batch_idx):
        [rows] = batch
        self.metrics.update(**extract(images(1)[rows]), real=True, index=rows)
        self.metrics.update(**extract(images(2)[rows]), real=False, index=rows)

    def on_validation_epoch_end(self):
        self.log_dict(self.metrics.compute(), sync_dist=True)
        self.metrics.reset()


def logged():
    ranks = world_size()
    trainer = Trainer(
        default_root_dir=tempfile.mkdtemp(),
        accelerator="cpu",
        devices=ranks,
        strategy=DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # Lightning gives every rank every second example: 25 each of 50.
    data = torch.utils.data.TensorDataset(torch.arange(COUNT))
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    return trainer.validate(Foreign(), loader, verbose=False)[0]


def test_a_module_that_is_not_ours_logs_one_ranks_numbers(ranks):
    expected = logged()
    first, second = ranks.run(logged)
    assert first == second == pytest.approx(expected, rel=1e-6, abs=1e-7)

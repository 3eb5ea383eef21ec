"""Two ranks stop together and go on to the same bits; ranks that differ are told so."""

import os
import signal
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch.optim import Adam
from two_ranks import Ranks, started

from lightning_igm.callbacks import (
    ExactResume,
    GeneratorCheckpoint,
    GeneratorEMA,
    ImageMetrics,
    KIDLearningRate,
    SampleGrid,
)
from lightning_igm.data import DigitsDataModule
from lightning_igm.distributed import rank
from lightning_igm.modules import GAN
from lightning_igm.networks import DCGANCritic, DCGANGenerator
from lightning_igm.runs.folder import MetricsCSV, check_same_on_all_ranks


@pytest.fixture(scope="module")
def ranks():
    return started(2)


class Restless(GAN):
    """Draws from the global generator, of each rank; may be told to stop by a signal."""

    def __init__(self, *args, signals=(), **kwargs):
        super().__init__(*args, **kwargs)
        self.signals = signals

    def critic_loss(self, real, fake):
        return super().critic_loss(real + 0.1 * torch.rand_like(real), fake)

    def generator_step(self, real):
        super().generator_step(real)
        for number, step, of_rank in self.signals:
            if (step, of_rank) == (self.global_step, rank()):
                os.kill(os.getpid(), number)


def train(folder, signals=(), ranks=2):
    """Train on the ranks of the run, or go on; all that the run knows in the end."""
    make = partial(Adam, lr=0.01)
    torch.manual_seed(0)
    generator = DCGANGenerator(latent_dim=4, image_size=16, width=2, init="he", output="sigmoid")
    critic = DCGANCritic(image_size=16, width=2, hidden_dim=4, init="he")
    torch.rand(rank())  # From here on the ranks' global generators differ.
    model = Restless(
        generator,
        critic,
        generator_optimizer=make,
        critic_optimizer=make,
        critic_steps=2,
        signals=signals,
    )
    last = Path(folder, "checkpoints/last.ckpt")
    metrics = ImageMetrics(
        every_n_steps=4, num_samples=70, kid_subset_size=20, kid_subsets=2, cache_dir=None
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=DDPStrategy(process_group_backend="gloo"),
        max_steps=8,
        default_root_dir=folder,
        logger=MetricsCSV(folder),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
        callbacks=[
            ExactResume(continues=last.exists()),
            SampleGrid(every_n_steps=3, num_samples=4, scale=1),
            GeneratorEMA(0.5),
            metrics,
            KIDLearningRate(every_n_steps=2, num_samples=30, patience=1, memory=2, level=0.5),
            GeneratorCheckpoint(every_n_steps=5),
        ],
    )
    path = last if last.exists() else None
    with patch.object(dist, "broadcast", wraps=dist.broadcast) as broadcast:
        try:
            trainer.fit(model, DigitsDataModule(4, size=16), ckpt_path=path)
        except (SystemExit, RuntimeError) as stop:
            return type(stop).__name__
    return {
        # Of one number: Lightning's, to hear of signals.
        "broadcasts": sum(call.args[0].shape == (1,) for call in broadcast.call_args_list),
        "drawn": torch.rand(3),
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "callbacks": {kind: c.state_dict() for c in trainer.callbacks[:-1] if (kind := type(c))},
        "noise": model.training_latent(2),
        "history": metrics.history,
    }


def groups():
    """How many groups of processes there are."""
    return len(dist.distributed_c10d._world.pg_map)


def files(folder):
    names = ["metrics.csv", *(f"samples/step_{step:08d}.png" for step in (3, 6, 8))]
    return {name: (Path(folder) / name).read_bytes() for name in names}


def assert_equal(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


@pytest.fixture(scope="module")
def straight(ranks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return ranks.run(train, str(folder)), files(folder)


def test_the_ranks_share_all_but_their_own_random_numbers(straight):
    first, second = straight[0]
    assert not torch.equal(first["drawn"], second["drawn"])
    assert not torch.equal(first["noise"], second["noise"])
    assert_equal(first["model"], second["model"])
    assert first["history"] == second["history"]


def test_nothing_is_left_in_the_background_and_no_batch_waits_for_signals(ranks, straight):
    assert [outcome["broadcasts"] for outcome in straight[0]] == [0, 0]
    assert ranks.run(groups) == [1, 1]


@pytest.mark.parametrize("of_rank", [0, 1])
@pytest.mark.parametrize(
    ("number", "stop"), [(signal.SIGTERM, "SIGTERMException"), (signal.SIGINT, "SystemExit")]
)
def test_a_signal_to_one_rank_stops_all_and_nothing_is_lost(
    ranks, straight, tmp_path, of_rank, number, stop
):
    stopped = ranks.run(train, str(tmp_path), [(int(number), 4, of_rank)])
    assert stopped == [stop, stop]
    assert ranks.run(groups) == [1, 1]
    saved = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    # The signal came in the batch of the fourth step; in the next, a critic step, all know.
    assert (saved["global_step"], saved["training_state"]["critic_steps_taken"]) == (4, 1)
    outcomes = ranks.run(train, str(tmp_path))
    for outcome, expected in zip(outcomes, straight[0], strict=True):
        outcome = dict(outcome)
        assert outcome.pop("history") == expected["history"]
        assert_equal(outcome, {key: expected[key] for key in outcome})
    assert files(tmp_path) == straight[1]


@pytest.mark.slow
def test_a_rank_that_is_killed_stops_the_others_and_nothing_is_lost(straight, tmp_path):
    run = tmp_path / "run"
    doomed = Ranks(2)
    first, second = doomed.begin(train, str(run), [(int(signal.SIGKILL), 6, 1)])
    with pytest.raises(EOFError):
        second.recv_bytes()
    assert b"RuntimeError" in first.recv_bytes()
    doomed.stop()
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 5
    fresh = Ranks(2)
    outcomes = fresh.run(train, str(run))
    fresh.stop()
    for outcome, expected in zip(outcomes, straight[0], strict=True):
        assert_equal(outcome["model"], expected["model"])
        assert_equal(outcome["drawn"], expected["drawn"])
    assert files(run) == straight[1]


def check(settings):
    try:
        check_same_on_all_ranks(settings[rank()])
    except ValueError as error:
        return str(error)


def test_ranks_with_different_configs_say_what_differs(ranks):
    same = {"trainer.max_steps": 10, "model.init_args": {"lr": 0.1}}
    assert ranks.run(check, [same, dict(same)]) == [None, None]
    assert ranks.run(check, [same, same | {"trainer.max_steps": 20}]) == 2 * [
        "trainer.max_steps: 10 on rank 0 and 20 on rank 1; all ranks must be given the same"
    ]
    assert ranks.run(check, [same, same | {"ema.decay": 0.5}]) == 2 * [
        "ema.decay: not set on rank 0 and 0.5 on rank 1; all ranks must be given the same"
    ]

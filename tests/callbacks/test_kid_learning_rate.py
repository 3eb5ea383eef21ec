"""The rule that sets learning rates: its decisions, its measurements, its place in a run."""

import csv
import statistics
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from tiny_gan import (
    TinyExtractor,
    TinyGAN,
    TinyImages,
    assert_same_training,
    fitted_state,
    tiny_trainer,
)
from torch import nn

from lightning_igm.callbacks import GeneratorEMA
from lightning_igm.callbacks.kid_learning_rate import DecayRule, KIDLearningRate
from lightning_igm.cli import console, main
from lightning_igm.metrics.three_sample import kernel_sums, three_sample_test

ROOT = Path(__file__).parents[2]

# --- decisions ------------------------------------------------------------------------------------


def decays(stats, last, every=2000, emptied=()):
    """Steps of the decays if the tests at some steps give these statistics; others fail."""
    rule = DecayRule()
    tested, decayed = [], []
    for step in range(0, last + 1, every):

        def p(new, old):
            tested.append(new)
            return statistics.NormalDist().cdf(stats.get(new, 9.0))

        if step in emptied:
            rule.past, rule.failures = [], 0
        if rule.update(step, p):
            decayed.append(step)
    return tested, decayed


def test_decays_if_every_test_fails():
    tested, decayed = decays({}, 150_000)
    assert decayed == [24_000, 44_000, 64_000, 84_000, 104_000, 124_000, 144_000]
    assert tested[:4] == [20_000, 22_000, 24_000, 40_000]
    assert 1e-4 * 0.8 ** len(decayed) == pytest.approx(2.097152e-5)


RUN = {
    **{20: -176.3, 22: -18.8, 24: -8.9, 26: -5.0, 28: -3.0, 30: -2.2, 32: -1.4, 34: -1.2},
    **{36: -1.2, 38: -1.1, 60: -0.1, 62: -0.0, 64: 0.2, 96: 0.2, 98: 0.1, 100: 0.0},
    **{116: 0.1, 118: 0.7, 120: 0.1},
}


def test_decays_of_a_published_run():
    stats = {1000 * step: value for step, value in RUN.items()}
    tested, decayed = decays(stats, 124_000, emptied=(40_000, 76_000))
    assert tested == list(stats)
    assert decayed == [38_000, 64_000, 100_000, 120_000]


def comparisons(passed, patience=2, memory=3):
    """The pairs that are tested if these entries pass."""
    rule, pairs, past = DecayRule(patience, memory), [], []
    for entry in range(9):

        def p(new, old):
            pairs.append((new, old))
            return 0.1 if new in passed else 0.1001

        rule.update(entry, p)
        past.append(list(rule.past))
    return pairs, past


def test_the_test_is_against_the_oldest_and_failures_change_nothing():
    pairs, past = comparisons(passed={4, 5})
    # 3 fails, 4 and 5 pass, 6 and 7 fail: a decay.
    assert pairs == [(3, 0), (4, 0), (5, 1), (6, 2), (7, 2)]
    assert past[3:] == [[0, 1, 2], [1, 2, 4], [2, 4, 5], [2, 4, 5], [5, 7], [5, 7, 8]]


def test_failures_count_in_a_row_only():
    rule = DecayRule(patience=2, memory=1)
    rule.update(0, None)
    outcomes = [rule.update(step, lambda *_, p=p: p) for step, p in enumerate([1, 0, 1, 0, 1, 1])]
    assert outcomes == [False, False, False, False, False, True]


# --- measurements ---------------------------------------------------------------------------------


def tiny_rule(every_n_steps=1, **settings):
    defaults = {
        "num_samples": 20,
        "patience": 1,
        "memory": 2,
        "level": 1e-300,
        "extractor": TinyExtractor(),
        "batch_size": 8,
        "seed": 3,
    }
    return KIDLearningRate(every_n_steps, **(defaults | settings))


def rate(trainer):
    return trainer.optimizers[0].param_groups[0]["lr"]


class Rates(Callback):
    """The learning rate of every step, and after the last."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(rate(trainer))

    def on_train_end(self, trainer, pl_module):
        self.seen.append(rate(trainer))


def features_of(images):
    return (images.double() * 255).round().div(255).mean((2, 3)).float()


class SumsByHand(Callback):
    """What the rule should remember of each step."""

    def __init__(self):
        self.sums = {}

    def measure(self, trainer, pl_module):
        generator = torch.Generator().manual_seed(3 + trainer.global_step)
        fake = torch.cat([pl_module.sample(n, generator) for n in (8, 8, 4)])
        rows = torch.randperm(40, generator=torch.Generator().manual_seed(3))[:20]
        real = features_of(trainer.datamodule.images[rows] / 255)
        self.sums[trainer.global_step] = kernel_sums(real, features_of(fake))

    def on_train_start(self, trainer, pl_module):
        self.measure(trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.measure(trainer, pl_module)


def test_the_memory_holds_sums_of_fresh_samples_and_random_real_images(tmp_path):
    rule, by_hand = tiny_rule(memory=9), SumsByHand()
    fitted_state(tmp_path, rule, by_hand)
    past = rule.state_dict()["past"]
    assert len(past) == 7
    for sums, expected in zip(past, by_hand.sums.values(), strict=True):
        for name, values in sums.items():
            torch.testing.assert_close(values, getattr(expected, name), rtol=1e-5, atol=1e-5)


def test_samples_of_the_averaged_generator_are_measured(tmp_path):
    plain, averaged = tiny_rule(memory=9), tiny_rule(memory=9)
    fitted_state(tmp_path, plain)
    fitted_state(tmp_path, averaged, GeneratorEMA(0.9))
    first, second = (rule.state_dict()["past"][-1]["rows"] for rule in (plain, averaged))
    assert not torch.allclose(first, second, rtol=1e-4)


def test_the_newest_sums_are_tested_against_the_oldest_and_loggers_get_the_outcome(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    rule, by_hand = tiny_rule(3), SumsByHand()
    fitted_state(tmp_path, rule, by_hand, logger=logger, max_steps=6)
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["learning_rate"]]
    assert [int(row["step"]) for row in rows] == [0, 3, 6]
    assert [float(row["learning_rate"]) for row in rows] == [0.01, 0.01, 0.008]
    assert [row["three_sample_stat"] for row in rows[:2]] == ["", ""]
    expected = three_sample_test(by_hand.sums[6], by_hand.sums[0])
    assert float(rows[2]["three_sample_stat"]) == pytest.approx(float(expected.stat), rel=1e-3)


def test_the_floor_of_the_variance_is_that_of_the_test(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    rule, by_hand = tiny_rule(variance_floor=1e9), SumsByHand()
    fitted_state(tmp_path, rule, by_hand, logger=logger, max_steps=2)
    expected = three_sample_test(by_hand.sums[2], by_hand.sums[0], 1e9)
    with (tmp_path / "metrics.csv").open() as file:
        *_, last = csv.DictReader(file)
    assert float(last["three_sample_stat"]) == pytest.approx(float(expected.stat), rel=1e-3)


class SortedImages(TinyImages):
    """The darker half comes first."""

    def __init__(self):
        super().__init__()
        self.images = self.images // 4
        self.images[20:] += 192


def real_of(folder, data, **settings):
    rule = tiny_rule(**settings)
    tiny_trainer(folder, rule, max_steps=1).fit(TinyGAN(), datamodule=data)
    return rule.state_dict()["real"]


def test_real_images_are_of_all_classes_of_sorted_data(tmp_path):
    bright = real_of(tmp_path, SortedImages()).mean(1) > 0.5
    assert 4 <= bright.sum() <= 16  # Of 20; outside by a chance of 2e-4, and the seed is fixed.
    real, again, other = (real_of(tmp_path, TinyImages(), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(real, again)
    assert not torch.equal(real.sort(0).values, other.sort(0).values)


def test_a_checkpoint_keeps_its_own_real_features(tmp_path):
    """Of the first images, in checkpoints of earlier versions."""
    trainer = tiny_trainer(tmp_path, tiny_rule(memory=9), max_steps=2)
    trainer.fit(TinyGAN(), datamodule=TinyImages())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    checkpoint = torch.load(tmp_path / "half.ckpt", weights_only=True)
    [state] = [value for key, value in checkpoint["callbacks"].items() if "KID" in key]
    state["real"] = features_of(TinyImages().images[:20] / 255)
    torch.save(checkpoint, tmp_path / "half.ckpt")
    rule = tiny_rule(memory=9)
    resumed = tiny_trainer(tmp_path, rule, max_steps=3)
    resumed.fit(TinyGAN(), datamodule=TinyImages(), ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(rule.state_dict()["real"], state["real"])


# --- learning rates ---------------------------------------------------------------------------


def test_rates_after_each_step_if_every_test_fails(tmp_path):
    rule, rates = tiny_rule(), Rates()
    fitted_state(tmp_path, rule, rates, max_steps=7)
    # Steps 0 and 1 fill the memory; a decay leaves one entry, and the next step fills it.
    assert rule.decays == [2, 4, 6]
    assert rates.seen == pytest.approx([0.01] * 2 + [0.008] * 2 + [0.0064] * 2 + [0.00512] * 2)


@pytest.mark.parametrize(("floor", "last"), [(0.007, 0.007), (0.5, 0.01), (0, 0.00512)])
def test_no_decay_goes_below_the_floor_or_raises_a_rate(tmp_path, floor, last):
    rates = Rates()
    fitted_state(tmp_path, tiny_rule(floor=floor), rates)
    assert rates.seen[-1] == pytest.approx(last)


def test_twenty_one_decays_reach_the_default_floor():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-4)
    rule = KIDLearningRate()
    seen = []
    for _ in range(22):
        rule._decay(type("Trainer", (), {"optimizers": [optimizer], "global_step": 0}))
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen[19] > 1e-6
    assert seen[20] == seen[21] == 1e-6


def test_adam_keeps_its_state(tmp_path):
    class Averages(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            (optimizer,) = trainer.optimizers
            self.steps = [int(state["step"]) for state in optimizer.state.values()]

    averages = Averages()
    fitted_state(tmp_path, tiny_rule(), averages)
    assert set(averages.steps) == {6}


class Scaled(TinyGAN):
    """Has a coefficient, and keeps that of every step."""

    def __init__(self):
        super().__init__()
        self.coefficient = 10.0
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append(self.coefficient)
        super().training_step(batch, batch_idx)


def test_the_coefficient_is_multiplied_too_and_a_continued_run_goes_on_with_it(tmp_path):
    model, rule = Scaled(), tiny_rule(coefficient_factor=0.5)
    trainer = tiny_trainer(tmp_path, rule, max_steps=5)
    trainer.fit(model, datamodule=TinyImages())
    assert model.seen == [10, 10, 5, 5, 2.5]
    assert model.coefficient == 10
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    model, rule = Scaled(), tiny_rule(coefficient_factor=0.5)
    trainer = tiny_trainer(tmp_path, rule, max_steps=7)
    trainer.fit(model, datamodule=TinyImages(), ckpt_path=tmp_path / "half.ckpt")
    assert model.seen == [2.5, 1.25]


def test_a_factor_without_a_coefficient_is_refused(tmp_path):
    message = "coefficient_factor: 0.5 is not allowed with TinyGAN, which has no coefficient"
    with pytest.raises(ValueError, match=message):
        fitted_state(tmp_path, tiny_rule(coefficient_factor=0.5))


# --- training does not notice -----------------------------------------------------------------


def test_training_does_not_notice_a_measurement(tmp_path):
    extractor = nn.Sequential(TinyExtractor(), nn.BatchNorm1d(3), nn.Dropout(0.5))
    rule = tiny_rule(extractor=extractor, patience=9)
    assert_same_training(fitted_state(tmp_path, rule), fitted_state(tmp_path))
    assert len(rule.state_dict()["past"]) == 2
    assert torch.equal(extractor[1].running_mean, torch.zeros(3))


def test_cadence_counts_generator_steps_once(tmp_path):
    rule = tiny_rule(2, memory=9)
    # Epochs of 5 batches, every third one a generator step: 5 steps in 25 batches.
    fitted_state(tmp_path, rule, critic_steps=2, max_steps=-1, max_epochs=5)
    assert len(rule.state_dict()["past"]) == 3  # Steps 0, 2 and 4.


# --- checkpoints ------------------------------------------------------------------------------

SMALL = [
    *("fit", "--config", str(ROOT / "configs/gan/digits.yaml"), "--trainer.accelerator=cpu"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--metrics.every_n_steps=null", "--model.critic.width=2", "--model.generator.width=4"),
    *("--trainer.callbacks+=KIDLearningRate", "--trainer.callbacks.every_n_steps=1"),
    *("--trainer.callbacks.num_samples=30", "--trainer.callbacks.memory=2"),
    "--trainer.callbacks.patience=2",
]
ALWAYS = ["--trainer.callbacks.level=1.0e-300"]


def run(folder, steps, *more):
    cli = main([*SMALL, f"--run.dir={folder}", f"--trainer.max_steps={steps}", *more])
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    return cli.trainer, state["callbacks"]["KIDLearningRate"]


def rates_of(trainer):
    return [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]


def assert_equal_states(first, second):
    assert first.keys() == second.keys()
    assert torch.equal(first["real"], second["real"])
    assert len(first["past"]) == len(second["past"])
    for one, other in zip(first["past"], second["past"], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    plain = "failures", "decays"
    assert [first[name] for name in plain] == [second[name] for name in plain]


# Always failing: 2 fails, 3 decays, 4 fails, 5 decays, 6 fails, 7 decays.
@pytest.mark.parametrize(
    ("stops", "more"),
    [((2,), ALWAYS), ((1, 4, 5), ALWAYS), ((3,), [])],
    ids=["before a decay", "stopped often", "real tests"],
)
def test_a_continued_run_decides_what_the_straight_one_does(tmp_path, stops, more):
    straight, expected = run(tmp_path / "straight", 7, *more)
    for steps in stops:
        run(tmp_path / "run", steps, "--ckpt_path=last", *more)
    continued, state = run(tmp_path / "run", 7, "--ckpt_path=last", *more)
    assert_equal_states(state, expected)
    assert rates_of(continued) == rates_of(straight)
    if more:
        assert expected["decays"] == [3, 5, 7]
        assert rates_of(straight) == pytest.approx([2e-4 * 0.8**3] * 2)
    weights = [trainer.lightning_module.state_dict() for trainer in (straight, continued)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_rate_typed_on_resume_wins_and_keeps_its_decays(tmp_path):
    run(tmp_path / "run", 3, *ALWAYS)
    typed = "--model.generator_optimizer.lr=0.001"
    trainer, _ = run(tmp_path / "run", 4, "--ckpt_path=last", *ALWAYS, typed)
    assert rates_of(trainer) == pytest.approx([0.001 * 0.8, 2e-4 * 0.8])
    trainer, _ = run(tmp_path / "run", 5, "--ckpt_path=last", *ALWAYS, typed)
    assert rates_of(trainer) == pytest.approx([0.001 * 0.64, 2e-4 * 0.64])


def test_the_rule_can_begin_in_mid_run(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=3)
    trainer.fit(TinyGAN(), datamodule=TinyImages())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    rule = tiny_rule(2, memory=9)
    resumed = tiny_trainer(tmp_path, rule, max_steps=6)
    resumed.fit(TinyGAN(), datamodule=TinyImages(), ckpt_path=tmp_path / "half.ckpt")
    assert len(rule.state_dict()["past"]) == 2  # Steps 4 and 6.


class SaveAtStart(Callback):
    def on_train_start(self, trainer, pl_module):
        trainer.save_checkpoint(f"{trainer.default_root_dir}/start.ckpt")


def test_step_0_is_measured_once(tmp_path):
    tiny_trainer(tmp_path, tiny_rule(memory=9), SaveAtStart(), max_steps=1).fit(
        TinyGAN(), datamodule=TinyImages()
    )
    rule = tiny_rule(memory=9)
    resumed = tiny_trainer(tmp_path, rule, max_steps=1)
    resumed.fit(TinyGAN(), datamodule=TinyImages(), ckpt_path=tmp_path / "start.ckpt")
    assert len(rule.state_dict()["past"]) == 2  # Steps 0 and 1.


def test_another_number_of_samples_on_resume_empties_the_memory(tmp_path):
    trainer = tiny_trainer(tmp_path, tiny_rule(memory=9), max_steps=3)
    trainer.fit(TinyGAN(), datamodule=TinyImages())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    rule = tiny_rule(memory=9, num_samples=12)
    resumed = tiny_trainer(tmp_path, rule, max_steps=5)
    with pytest.warns(UserWarning, match="num_samples: 20 in the checkpoint, 12 now"):
        resumed.fit(TinyGAN(), datamodule=TinyImages(), ckpt_path=tmp_path / "half.ckpt")
    assert [len(sums["rows"]) for sums in rule.state_dict()["past"]] == [12, 12]


# --- mistakes ---------------------------------------------------------------------------------


def mistake(folder, monkeypatch, capsys, *more):
    """The one line of a mistake at the command line, which leaves nothing behind."""
    capsys.readouterr()  # What runs before said.
    monkeypatch.setattr(sys, "argv", ["igm", *SMALL, f"--run.dir={folder / 'run'}", *more])
    with pytest.raises(SystemExit):
        console()
    assert not any(path.is_file() for path in (folder / "run").rglob("*"))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("igm: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_schedule_is_refused(tmp_path, monkeypatch, capsys):
    schedule = "--model.critic_scheduler=StepLR", "--model.critic_scheduler.step_size=5"
    line = mistake(tmp_path, monkeypatch, capsys, *schedule)
    assert "KIDLearningRate: a schedule (StepLR) sets the learning rates already" in line


def test_too_few_training_images_are_refused(tmp_path, monkeypatch, capsys):
    line = mistake(tmp_path, monkeypatch, capsys, "--trainer.callbacks.num_samples=1798")
    assert "num_samples: 1798 is not allowed; there are 1797 training images" in line


class OtherImages(TinyImages):
    name = "faces"


def test_data_without_an_extractor_are_refused_at_the_start(tmp_path):
    trainer = tiny_trainer(tmp_path, tiny_rule(extractor=None))
    message = "KIDLearningRate.extractor: null is not allowed with faces, .*; give a module"
    with pytest.raises(ValueError, match=message):
        trainer.fit(TinyGAN(), datamodule=OtherImages())
    assert trainer.global_step == 0
    trainer.validate(TinyGAN(), datamodule=OtherImages(), verbose=False)


def test_samples_that_are_not_finite_are_not_tested(tmp_path):
    class Broken(TinyGAN):
        def sample(self, n, generator=None):
            images = super().sample(n, generator)
            return images / 0 if self.global_step == 2 else images

    rule = tiny_rule(memory=9)
    with pytest.warns(UserWarning, match="samples are not finite; they are not tested"):
        tiny_trainer(tmp_path, rule, max_steps=3).fit(Broken(), datamodule=TinyImages())
    assert len(rule.state_dict()["past"]) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps: 0 is not allowed; it must be 1 or more"),
        ({"num_samples": 2}, "num_samples: 2 is not allowed; it must be 3 or more"),
        ({"patience": 0}, "patience: 0 is not allowed; it must be 1 or more"),
        ({"memory": 0}, "memory: 0 is not allowed; it must be 1 or more"),
        ({"factor": 1.0}, "factor: 1.0 is not allowed; it must be between 0 and 1"),
        ({"factor": -0.8}, "factor: -0.8 is not allowed"),
        ({"floor": -1e-6}, "floor: -1e-06 is not allowed; it must be 0 or more"),
        ({"level": 0.0}, "level: 0.0 is not allowed; it must be between 0 and 1"),
        ({"level": 1.0}, "level: 1.0 is not allowed"),
        ({"variance_floor": -1.0}, "variance_floor: -1.0 is not allowed"),
        ({"coefficient_factor": 0}, "coefficient_factor: 0 is not allowed; it must be"),
        ({"batch_size": 0}, "batch_size: 0 is not allowed; it must be 1 or more"),
    ],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_rule(**settings)

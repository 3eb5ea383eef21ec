"""A run that is killed at any moment and continued is the run that was not killed, to the bit."""

import random
import shutil
import signal
import time

import pytest
from killed_runs import PRESETS, Run, arguments, differences, outcome, table

from lightning_igm import MoLM
from lightning_igm.callbacks import ImageMetrics

KILLS = 30


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """What runs without a kill leave behind, made when asked for."""
    made = {}

    def of(preset):
        if preset not in made:
            folder = tmp_path_factory.mktemp("straight")
            made[preset] = Straight(preset, folder)
            # A killed run has the same folder: its name is in the config and in checkpoints.
            (folder / "run").rename(folder / "straight")
        return made[preset]

    return of


class Straight:
    def __init__(self, preset, folder):
        self.folder = folder
        run = self.begin(preset)
        run.wait_for_training()
        start = time.monotonic()
        assert run.end() == 0, run.printed()
        self.seconds = time.monotonic() - start
        self.outcome, self.table = outcome(folder / "run"), table(run.printed())
        self.changes = int(run.printed().split()[-1])

    def begin(self, preset, *more, **deaths):
        return Run([*arguments(preset, self.folder / "run"), *more], self.folder / "log", **deaths)

    def check_end(self, run):
        """That a run ended as this one did; its folder is removed."""
        assert run.end() == 0, run.printed()
        assert differences(outcome(self.folder / "run"), self.outcome) == []
        assert "is finished" in run.printed()
        assert table(run.printed()) in (self.table, [])
        shutil.rmtree(self.folder / "run")


def test_the_reference_has_all_that_could_be_lost(straight):
    reference = straight("smmdgan")
    names = set(reference.outcome)
    assert {"metrics.csv", "checkpoints/last.ckpt", "config.yaml"} <= names
    assert {"samples/step_00000010.png", "samples/step_00000012.png"} <= names
    saved = reference.outcome["checkpoints/last.ckpt"]
    assert saved["global_step"] == 12
    states = saved["callbacks"]
    assert states["KIDLearningRate"]["decays"] or states["KIDLearningRate"]["past"]
    assert len(states["ImageMetrics"]["history"]) == 2
    assert states["GeneratorEMA"]["average"]
    assert len(reference.table) == 4
    assert reference.changes > 40


def killed(reference, preset, **death):
    run = reference.begin(preset, **death)
    assert run.end() == -signal.SIGKILL
    reference.check_end(reference.begin(preset, "--ckpt_path=last"))


@pytest.mark.parametrize(
    "death",
    [(MoLM, "critic_loss", 3), (MoLM, "images_of", 250), (ImageMetrics, "evaluate", 2)],
    ids=["critic phase", "data pass", "evaluation"],
)
def test_killed_inside(straight, death):
    killed(straight("molm"), "molm", die_in=death)


@pytest.mark.parametrize("calls", [3, 5], ids=["in a critic phase", "at its end"])
def test_sigterm_stops_after_the_batch(straight, calls):
    reference = straight("molm")
    death = MoLM, "critic_loss", calls, signal.SIGTERM
    run = reference.begin("molm", die_in=death)
    assert run.end() == 128 + signal.SIGTERM
    said = [line for line in run.printed().splitlines() if line.startswith("igm: ")]
    [line] = said
    assert "was stopped at generator step " in line
    assert line.endswith(f"--run.dir {reference.folder / 'run'} --ckpt_path last")
    assert "Traceback" not in run.printed()
    saved = outcome(reference.folder / "run")["checkpoints/last.ckpt"]
    # Three generator steps come after two critic steps.
    assert saved["training_state"]["critic_steps_taken"] == calls % 2
    reference.check_end(reference.begin("molm", "--ckpt_path=last"))


# Each of them is a moment at which a file is half written, or written and not yet in its place.
@pytest.mark.parametrize("part", range(3))
def test_killed_in_the_middle_of_a_file(straight, part):
    reference = straight("molm")
    change = random.Random(part).randint(1, reference.changes)
    killed(reference, "molm", die_before=change)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["molm", "smmdgan"])
def test_killed_before_each_change_of_a_file(straight, preset):
    reference = straight(preset)
    for change in range(1, reference.changes + 1):
        killed(reference, preset, die_before=change)


def killed_at_random(reference, preset, kills, seed):
    """Kill runs that go on and on, so many times, at times drawn anew."""
    draw = random.Random(f"{preset} {seed}")
    done, more = 0, []
    while done < kills:
        run = reference.begin(preset, *more)
        if draw.random() < 0.8:
            run.wait_for_training()
        if run.kill(after=draw.uniform(0, reference.seconds)):
            done, more = done + 1, ["--ckpt_path=last"]
        else:
            reference.check_end(run)
            more = []
    reference.check_end(reference.begin(preset, "--ckpt_path=last"))


@pytest.mark.parametrize("preset", ["molm", "gramnet", "smmdgan"])
def test_killed_at_random_moments(straight, preset):
    killed_at_random(straight(preset), preset, 2, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_killed_at_many_random_moments(straight, preset):
    killed_at_random(straight(preset), preset, KILLS, seed=1)

"""The ring study: its cells and files, its summary, and tiny runs of its commands."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from statistics import median

import pytest
import torch
from filelock import FileLock
from PIL import Image

from lightning_igm.studies import _figure
from lightning_igm.studies.ring import cells as cells_module
from lightning_igm.studies.ring import films, workers
from lightning_igm.studies.ring import study as ring
from lightning_igm.studies.ring.cells import Cell, Result, ensembles, read_results, train
from lightning_igm.studies.ring.films import frame_steps
from lightning_igm.studies.ring.report import is_stable, summary

MODELS = ["gramnet", "gan", "mmdnet", "mmdgan"]
GAN = Cell("gan", 2, 4, 20, None, 0.999, None, 3, 0)


def grid(**settings):
    defaults = {
        "models": MODELS,
        "dims": [2],
        "latent_dims": [2, 4],
        "hidden": [20],
        "projections": [10],
        "betas": [0.999],
        "regularisers": ["mean"],
        "seeds": [0, 1],
        "iterations": 3,
    }
    return ring.grid(**(defaults | settings))


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(cells_module, "SCORED_SAMPLES", 200)
    monkeypatch.setattr(cells_module, "DRAWN_SAMPLES", 30)
    small = cells_module.RingDataModule
    sizes = {"count": 2000, "test_count": 300}
    monkeypatch.setattr(cells_module, "RingDataModule", lambda dim: small(dim=dim, **sizes))


# --- cells ----------------------------------------------------------------------------------------


def test_a_model_ignores_what_it_does_not_have():
    all_settings = {"projections": [2, 10], "betas": [0.999, 0.0999]}
    all_settings |= {"regularisers": ["mean", "clip"], "latent_dims": [2], "seeds": [0]}
    counts = {"gramnet": 8, "gan": 2, "mmdnet": 1, "mmdgan": 4}
    for model, count in counts.items():
        found = grid(models=[model], **all_settings)
        assert len(found) == len(set(found)) == len({cell.name for cell in found}) == count
    assert all(cell.beta2 is None for cell in grid(models=["mmdnet"]))


def test_the_default_study_has_240_runs_of_48_shapes(tmp_path):
    defaults = {"latent_dims": [2, 4, 8, 16], "hidden": [20, 100, 200], "seeds": range(5)}
    groups = ensembles(grid(**defaults), tmp_path)
    assert [len(group) for group in groups] == [5] * 48
    assert all(len({cell.shape for cell in group}) == 1 for group in groups)
    assert [group[0].model for group in groups[:12]] == ["mmdgan"] * 12


def test_beta2_and_regulariser_of_one_shape_are_trained_together(tmp_path):
    both = {"betas": [0.999, 0.0999], "regularisers": ["mean", "clip"]}
    [group] = ensembles(grid(models=["gramnet"], latent_dims=[4], **both), tmp_path)
    assert len(group) == 8


def test_a_file_tells_all_of_a_cell(tmp_path):
    train([GAN, replace(GAN, seed=1)], tmp_path)
    first, second = read_results(tmp_path)
    assert [first.cell, second.cell] == [GAN, replace(GAN, seed=1)]
    assert first.samples.shape == (30, 2)
    assert first.scores.keys() == {
        "modes_covered",
        "hq",
        "kl_rev",
        "kl_fwd",
        "mmd2_0.2",
        "mmd2_0.5",
        "mmd2_1",
        "diverged",
    }
    assert first.seconds == second.seconds > 0
    assert ensembles([GAN], tmp_path) == []
    assert ensembles([GAN, replace(GAN, seed=2)], tmp_path) == [[replace(GAN, seed=2)]]


def test_equal_cells_have_equal_results(tmp_path):
    train([GAN, replace(GAN, seed=1)], tmp_path / "together")
    train([replace(GAN, seed=1)], tmp_path / "alone")
    [alone], [_, together] = read_results(tmp_path / "alone"), read_results(tmp_path / "together")
    assert together.scores == pytest.approx(alone.scores, rel=1e-4)


def test_a_run_whose_loss_was_not_finite_has_diverged(tmp_path, monkeypatch):
    from lightning_igm.studies.ring.models import GAN as Method

    step = Method.step

    def spoilt(self, real, noise):
        losses = step(self, real, noise)
        losses[0, 1] = torch.inf
        return losses

    monkeypatch.setattr(Method, "step", spoilt)
    train([GAN, replace(GAN, seed=1)], tmp_path)
    assert [result.scores["diverged"] for result in read_results(tmp_path)] == [0, 1]


def test_a_run_that_is_killed_while_it_writes_leaves_no_half_file(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        train([GAN], tmp_path)
    assert read_results(tmp_path) == []
    assert ensembles([GAN], tmp_path) == [[GAN]]


# --- the summary ----------------------------------------------------------------------------------


def result(modes, hq, diverged=0.0, **settings):
    scores = {"modes_covered": modes, "hq": hq, "kl_rev": 0.5, "kl_fwd": 0.5, "diverged": diverged}
    scores |= {"mmd2_0.2": math.nan if diverged else 0.01, "mmd2_0.5": 0.1, "mmd2_1": 0.1}
    return Result(replace(GAN, **settings), scores, 7.0, torch.zeros(3, 2))


@pytest.mark.parametrize(
    ("seeds", "stable"),
    [
        ([(8, 0), (8, 0), (1, 0)], True),
        ([(8, 0), (7, 0), (7, 0)], False),
        ([(8, 0), (8, 0), (8, 1)], False),
        ([(8, 0), (7, 0)], False),
    ],
)
def test_a_cell_is_stable_if_its_median_seed_covers_all_and_none_diverged(seeds, stable):
    assert is_stable([result(modes, 0.9, diverged) for modes, diverged in seeds]) is stable


def test_summary_has_medians_and_ranges():
    results = [result(8, hq, seed=seed) for seed, hq in enumerate((0.9, 0.7, 0.8))]
    results += [result(m, 0.1, seed=m, hidden=100, diverged=float(m == 2)) for m in (1, 2)]
    results += [result(3, 0.5, model="mmdnet", beta2=None)]
    lines = summary(results).splitlines()
    [gan] = [line for line in lines if line.startswith("| GAN ")]
    assert "| 2-D | 0.999 |  | 3 | 2 to 3 | 1 of 2 | 4.75 (1.5 to 8) | 0.450 (0.100" in gan
    assert gan.endswith("| 1 of 5 | 7 |")
    cell = "| latent 4, width 20 | 8 | 0.800 (0.700 to 0.900) | 0.5000 | 0.0100 | 0.1000 | 0 of 3 |"
    assert cell in lines
    assert "## mmdnet-ring2d-3" in lines


# --- the command ----------------------------------------------------------------------------------


TINY = ["--iterations", "3", "--latent-dims", "2", "--hidden", "20", "--seeds", "0", "1"]


def study(folder, name, *options):
    ring.main([name, "--out", str(folder), *options])
    return folder / name


def names(folder, pattern="*.*"):
    paths = [path for path in folder.glob(pattern) if path.is_file()]
    return sorted(path.name for path in paths if not path.name.startswith("."))


def test_grid_writes_tables_and_pictures_and_keeps_what_is_there(tmp_path, capsys):
    options = [*TINY, "--processes", "1"]
    folder = study(tmp_path, "grid", *options)
    assert names(folder) == [
        "gan-ring2d-beta0.999-3.png",
        "gramnet-ring2d-beta0.999-mean-3.png",
        "mmdgan-ring2d-beta0.999-3.png",
        "mmdnet-ring2d-3.png",
        "results.csv",
        "scores-ring2d-beta0.999-3.png",
        "summary.md",
    ]
    times = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*")}
    assert len(times) == 8
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {row["regulariser"] for row in rows if row["model"] == "gramnet"} == {"mean"}
    assert all(0 <= float(row["hq"]) <= 1 and float(row["seconds"]) > 0 for row in rows)
    assert "0 runs are done, 8 to train, in 4 ensembles" in capsys.readouterr().err

    # Others join them.
    more = ["--betas", "0.0999", "--dims", "3", "--models", "gan", "gramnet"]
    study(tmp_path, "grid", *options, *more, "--regularisers", "clip")
    assert "4 to train, in 2 ensembles" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(names(folder)) == 7 + 3
    with (folder / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 12


def test_a_study_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    options = [*TINY, "--processes", "1", "--models", "gan", "mmdnet"]
    calls = []

    def stops(group, folder):
        calls.append(group)
        if len(calls) == 2:
            raise KeyboardInterrupt
        train(group, folder)

    monkeypatch.setattr(workers, "train", stops)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, "grid", *options)
    assert len(names(tmp_path / "grid", "cells/*.json")) == 2
    folder = study(tmp_path, "grid", *options)
    assert [group[0].model for group in calls] == ["gan", "mmdnet", "mmdnet"]
    assert len(names(folder, "cells/*.json")) == 4


def test_projection_sizes_are_columns(tmp_path):
    options = ["--projections", "2", "3", "--dims", "2", "--seeds", "0", "--iterations", "2"]
    folder = study(tmp_path, "projection-size", *options, "--hidden", "20", "--processes", "1")
    assert len(names(folder, "cells/*.json")) == 4
    assert "| latent 20, width 20, K 3 |" in (folder / "summary.md").read_text()


def test_projection_writes_a_film(tmp_path, monkeypatch):
    monkeypatch.setattr(films, "_FRAMES", 4)
    folder = study(tmp_path, "projection", "--iterations", "160")
    name = "gramnet-ring3d-beta0.999-mean-160-z20-h100-k2-seed0"
    assert names(folder) == [f"{name}.gif", f"{name}.png", f"{name}.pt"]
    with Image.open(folder / f"{name}.gif") as film:
        assert film.n_frames == len(frame_steps(160)) == 5
    film = torch.load(folder / f"{name}.pt", weights_only=True)
    assert film["projected_samples"].shape == (5, 1000, 2)
    assert film["steps"].tolist() == frame_steps(160)
    ring.main(["projection", "--iterations", "160", "--out", str(tmp_path)])


def test_trace_is_the_median_ratio_error_and_loss(tmp_path):
    folder = study(tmp_path, "trace", "--iterations", "110", "--seeds", "0", "4")
    name = "gramnet-ring2d-beta0.999-mean-110-seeds0_4"
    assert names(folder) == [f"{name}.csv", f"{name}.png"]
    with (folder / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["iteration"]) for row in rows] == [*range(1, 101), 105, 110]
    losses = [float(row["generator_loss_seed4"]) for row in rows]
    assert median(losses[:20]) > median(losses[-20:])
    assert all(float(row["d_star_seed0"]) > 0 for row in rows)


def test_frames_are_ever_farther_apart():
    steps = frame_steps(10_500)
    assert steps[:4] == [0, 1, 2, 3]
    assert steps[-1] == 10_500
    assert {1, 1000, 3000} < set(steps)
    assert 40 < len(steps) < 90
    assert frame_steps(1) == [0, 1]


@pytest.mark.parametrize("arguments", [["--help"], ["grid", "--help"], ["trace", "--help"]])
def test_help(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        ring.main(arguments)
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "``" not in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["grid", "--models", "vae"], "argument --models: invalid choice: 'vae'"),
        (["grid", "--dims", "4"], "argument --dims: invalid choice: 4"),
        (["grid", "--seeds", "-1"], "argument --seeds: '-1' must be a whole number, 0 or more"),
        (["grid", "--hidden", "0"], "argument --hidden: '0' must be a whole number, 1 or more"),
        (["grid", "--betas", "1"], "argument --betas: '1' must be between 0 and 1"),
        (["grid", "--betas", "x"], "argument --betas: 'x' must be between 0 and 1"),
        (["trace", "--iterations", "2.5"], "--iterations: '2.5' must be a whole number"),
    ],
)
def test_mistakes_are_named(options, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        ring.main([*options, "--out", str(tmp_path)] if len(options) > 2 else options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ['{"cell": {"mod', "{}", "[]"])
def test_a_damaged_result_is_named(content, tmp_path):
    (tmp_path / "cells").mkdir()
    path = tmp_path / "cells" / "gan.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"^out: .*gan.json is damaged, or no result of this"):
        read_results(tmp_path / "cells")


def test_a_worker_that_is_killed_is_one_line(tmp_path, monkeypatch):
    def broken(*_):
        raise BrokenProcessPool

    monkeypatch.setattr(ring, "run", broken)
    with pytest.raises(ValueError, match="a process was killed, or its memory was full"):
        study(tmp_path, "grid", "--seeds", "0")


def test_what_is_not_installed_is_said_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(_figure, "find_spec", lambda name: None if name == "matplotlib" else 1)
    with pytest.raises(SystemExit, match=r"^ring: there is no matplotlib; install lightning_igm"):
        _figure.console(pytest.fail, "ring")


def test_one_study_at_a_time_in_a_folder(tmp_path):
    (tmp_path / "grid").mkdir()
    with (
        FileLock(tmp_path / "grid" / ".lock"),
        pytest.raises(ValueError, match=r"out: .*grid is in use by another process"),
    ):
        study(tmp_path, "grid", *TINY)


@pytest.mark.slow
def test_two_processes_and_what_is_left_of_them_when_the_study_is_killed(tmp_path):
    command = [sys.executable, "-m", "lightning_igm.studies.ring", "grid", "--out", str(tmp_path)]
    command += ["--models", "mmdnet", "--seeds", "0"]
    quick = [*command, "--iterations", "20"]
    subprocess.run(quick, check=True, capture_output=True)
    assert len(names(tmp_path / "grid", "cells/*.json")) == 12
    # Ensembles that take for ever, but for the first.
    process = subprocess.Popen([*command, "--iterations", "1000000"], start_new_session=True)
    deadline = time.monotonic() + 60
    while len(_members(process.pid)) < 4 and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while _members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not _members(process.pid)
    found = json.loads(next((tmp_path / "grid" / "cells").glob("*.json")).read_text())
    assert found["cell"]["iterations"] == 20


def _members(session):
    """Processes of a session that run."""
    listing = subprocess.run(["ps", "-s", str(session), "-o", "pid=,stat="], capture_output=True)
    lines = [line.split() for line in listing.stdout.decode().splitlines()]
    return [pid for pid, state in lines if not state.startswith("Z")]


@pytest.mark.slow
def test_gram_net_learns_the_ring(tmp_path, monkeypatch):
    monkeypatch.undo()
    settings = {"models": ["gramnet"], "latent_dims": [20], "hidden": [100], "seeds": [0, 1, 2]}
    train(grid(**settings, iterations=10_500), tmp_path)
    scores = [result.scores for result in read_results(tmp_path)]
    middle = {name: median(own[name] for own in scores) for name in scores[0]}
    assert middle["modes_covered"] == 8
    assert middle["hq"] >= 0.88
    assert middle["kl_rev"] <= 0.005
    assert middle["mmd2_0.2"] <= 0.004
    assert middle["diverged"] == 0

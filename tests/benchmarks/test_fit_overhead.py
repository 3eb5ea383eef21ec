"""What `igm fit` costs beside a bare PyTorch loop that makes the same updates.

A round is a generator step of both, and their sums over rounds are compared: what comes once in
many steps, like a row of the log, counts with its share. Starting up (imports, the data set, the
first sample grid) and scores are no part of it.
"""

from pathlib import Path

import pytest
import torch
from bare_loop import fit_beside_bare_loop
from methods import concrete_methods, presets_on_digits, settings_of
from timing import report

from lightning_igm import CriticRounds
from lightning_igm.data import CIFAR10DataModule

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
CONFIGS = Path(__file__).parents[2] / "configs"
METHODS = list(concrete_methods())
ON_DIGITS = {settings_of(path)["class_path"]: str(path) for path in presets_on_digits().values()}
ON_DIGITS |= {
    settings_of(path)["class_path"]: str(path)
    for name, path in presets_on_digits().items()
    if name.endswith("/digits")
}
NO_SCORES = ["--metrics.every_n_steps=null"]


def overhead(rounds):
    return sum(seconds["fit"] for seconds in rounds) / sum(seconds["bare"] for seconds in rounds)


@pytest.mark.parametrize("method", METHODS)
def test_update_on_the_digits(method, tmp_path, record_property):
    turns = 50 if method == "MoLM" else 25  # Two of MoLM's critic phases.
    arguments = ["--config", ON_DIGITS[method], *NO_SCORES]
    if issubclass(concrete_methods()[method], CriticRounds):
        arguments += ["--model.critic_burst_steps=null"]
    rounds = fit_beside_bare_loop(arguments, tmp_path, turns)
    name = f"digits, {method}: update in igm fit / bare"
    report(record_property, name, overhead(rounds), at_most=1.10)


def test_fit_on_the_digits(tmp_path, record_property):
    """With the log, the bar, the average of weights, a grid and a checkpoint."""
    every = [f"--{what}.every_n_steps=250" for what in ("samples", "checkpoint")]
    arguments = ["--config", str(CONFIGS / "molm" / "digits.yaml"), *NO_SCORES, *every]
    rounds = fit_beside_bare_loop(arguments, tmp_path, turns=250)
    report(record_property, "digits, MoLM: igm fit / bare loop", overhead(rounds), at_most=1.15)


# Turns, and what is shrunk: the batch, beside which the framework's cost is the larger, MoLM's
# phases and data with it, and the log's interval, so that there are rows.
ON_CIFAR10 = {
    "gramnet": (25, ["--trainer.log_every_n_steps=25"]),
    "sngan": (
        8,
        [
            "--data.batch_size=4",
            "--model.critic_burst_steps=null",
            "--trainer.log_every_n_steps=8",
        ],
    ),
    "molm": (
        8,
        [
            "--data.batch_size=8",
            "--model.critic_steps=1",
            "--model.critic_interval=8",
            "--trainer.log_every_n_steps=9",
        ],
    ),
}


@pytest.mark.parametrize("folder", ON_CIFAR10)
def test_fit_on_cifar10(folder, tmp_path, record_property, monkeypatch):
    turns, shrunk = ON_CIFAR10[folder]
    images = torch.randint(256, (8 if folder == "molm" else 500, 3, 32, 32), dtype=torch.uint8)
    monkeypatch.setattr(CIFAR10DataModule, "prepare_data", lambda self: None)
    monkeypatch.setattr(CIFAR10DataModule, "load_images", lambda self: (images, images))
    arguments = ["--config", str(CONFIGS / folder / "cifar10.yaml"), *NO_SCORES, *shrunk]
    ratio = overhead(fit_beside_bare_loop(arguments, tmp_path, turns))
    report(record_property, f"CIFAR-10, {folder}: igm fit / bare loop", ratio, at_most=1.05)

"""Every method on the embedded digits, at equal generator steps and at equal processor time.

::

    python -m lightning_igm.studies.digits --out runs/digits

trains the digits preset of every method with every seed, two runs at a time and one thread each,
scores the last checkpoints, and writes ``summary.md``, ``scores.csv`` (all scores of all runs) and
``curves.png``. Finished runs are kept; a stopped run resumes.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_igm import modules
from lightning_igm.cli.presets import method_of, presets
from lightning_igm.runs.compare import Curve, draw, interval, read_final
from lightning_igm.studies._figure import console, figure
from lightning_igm.studies._runs import read_timed_curve, score_all, train_all

__all__ = ["METHODS", "Run", "draw_fids", "main", "summary"]

_NAMES = {
    "molm/digits": "MoLM",
    "molm/digits_random": "random moments",
    "smmdgan/sn_digits": "SN-SMMDGAN",
    "smmdgan/digits": "SMMDGAN",
    "swgan/sn_digits": "SN-SWGAN",
    "swgan/digits": "SWGAN",
    "gcmmdgan/digits": "GCMMDGAN",
    "mmdgan/digits": "MMDGAN-GP-L2",
    "mmdgan/sn_digits": "SN-MMDGAN",
    "mmdgan/plain_digits": "MMDGAN",
    "sngan/digits": "SN-GAN",
    "wgangp/digits": "WGAN-GP",
    "sobolevgan/digits": "Sobolev GAN",
    "cramergan/digits": "Cramér GAN",
    "gan/digits": "GAN",
    "gramnet/digits": "GRAM-net",
    "mmdgan/digits_li": "MMDGAN with a decoder",
    "repulsive_mmdgan/digits": "repulsive MMDGAN",
    "drifting/digits": "drifting",
    "feature_matching/digits": "feature matching",
    "mmdnet/digits": "MMD-net",
    "mmdnet/digits_codes": "MMD-net in codes",
}
"""Names of presets in tables, if not those of their classes."""


def _methods() -> dict[str, str]:
    """Every preset on the digits, by the name of its method."""
    others = [name for name in presets() if "digits" in name and name not in _NAMES]
    others.sort(key=lambda name: not name.endswith("/digits"))  # The class's name is the first's.
    methods = {name: preset for preset, name in _NAMES.items()}
    for preset in others:
        method = method_of(preset)
        methods[preset if method in methods else method] = preset
    return methods


METHODS = _methods()
"""Preset of each method."""

_HIGHLIGHTED = ("MoLM", "SMMDGAN", "MMDGAN-GP-L2", "GAN", "MMD-net")
_WATCH = ["--trainer.callbacks+=CriticSpectrum", "--trainer.callbacks.every_n_steps=100"]


class Run(NamedTuple):
    """A run that went to its end."""

    fid: Curve
    kid: Curve
    final: Mapping[str, float]
    """Scores of the last checkpoint."""
    condition: float | None = None
    """Largest condition number of the critic's layers while it trained."""


def summary(methods: Mapping[str, Sequence[Run | None]]) -> str:
    """A Markdown table: mean, standard deviation and range over the seeds.

    Args:
        methods: Runs of each method; None for one that a loss that is not finite stopped.
    """
    sound = {name: [run for run in runs if run] for name, runs in methods.items()}
    everything = [run for runs in sound.values() for run in runs]
    step = min(run.fid.steps[-1] for run in everything)
    time = min(run.fid.seconds for run in everything)
    columns = [
        *(
            f"FID after {step:,.0f} steps",
            f"1000 KID, {step:,.0f} steps",
            f"FID after {time:.0f} s",
        ),
        *("steps of the preset", "FID then", "MS-SSIM ratio then", "s per 1,000 steps"),
        *("largest condition number", "diverged"),
    ]
    lines = [f"| | {' | '.join(columns)} |", "|" + "---|" * (1 + len(columns))]
    for name, runs in sorted(sound.items(), key=lambda item: _mean_fid(item[1], step)):
        cells = ["-"] * (len(columns) - 1)
        if runs:
            conditions = [run.condition for run in runs if run.condition is not None]
            cells = [
                interval([run.fid.at_step(step) for run in runs]),
                interval([1000 * run.kid.at_step(step) for run in runs]),
                interval([run.fid.at(time) for run in runs]),
                f"{runs[0].fid.steps[-1]:,.0f}",
                interval([run.final["fid"] for run in runs]),
                interval([run.final["ms_ssim_ratio"] for run in runs]),
                f"{np.mean([1000 * run.fid.seconds / run.fid.steps[-1] for run in runs]):.0f}",
                f"{max(conditions):.1f}" if conditions else "-",
            ]
        diverged = len(methods[name]) - len(runs)
        lines.append(f"| {name} | {' | '.join(cells)} | {diverged} of {len(methods[name])} |")
    return "\n".join(lines) + "\n"


def draw_fids(fids: Mapping[str, Sequence[tuple[float, float]]], early: str, path: Path) -> None:
    """FID of each method at equal steps and at its end: means and standard deviations.

    Args:
        fids: By method, mean and standard deviation at equal steps, and at the end.
        early: The equal steps, in words.
        path: The PNG.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    names = sorted(fids, key=lambda name: -fids[name][0][0])
    with figure(path, 1, 1, (6.5, 0.8 + 0.25 * len(names))) as axes:
        panel = axes[0, 0]
        for number, (label, fill, size) in enumerate([(early, "C0", 4), ("at the end", "none", 8)]):
            means, spreads = zip(*(fids[name][number] for name in names), strict=True)
            dots = {"fmt": "o", "color": "C0", "mfc": fill, "ms": size, "capsize": 2}
            panel.errorbar(means, range(len(names)), xerr=spreads, label=label, **dots)
        panel.set(xscale="log", xlabel="FID (digit classifier)")
        panel.set_yticks(range(len(names)), names)
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(axis="x", alpha=0.3)
        panel.legend(loc="upper right")


def _mean_fid(runs: Sequence[Run], step: float) -> float:
    return float(np.mean([run.fid.at_step(step) for run in runs])) if runs else np.inf


def _write_scores(methods: Mapping[str, Sequence[Run | None]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "run", "generator_step", "fid", "kid", "seconds_of_run"])
        for name, runs in methods.items():
            for number, run in enumerate(runs):
                if run:
                    rows = zip(run.fid.steps, run.fid.score, run.kid.score, strict=True)
                    writer.writerows([name, number, *row, run.fid.seconds] for row in rows)


def _read(folder: Path, final: Mapping[str, Curve]) -> Run:
    try:
        condition = read_timed_curve(folder, "critic_condition_number").score.max()
    except ValueError:  # There is no critic.
        condition = None
    scores = {name: float(curve.score[-1]) for name, curve in final.items()}
    return Run(read_timed_curve(folder), read_timed_curve(folder, "kid"), scores, condition)


def main(arguments: Sequence[str] | None = None) -> str:
    """Train and score what is not yet, and write the tables and the figure.

    Returns:
        The table.
    """
    parser = argparse.ArgumentParser(
        prog="digits",
        description=f"{str(__doc__).splitlines()[0]} Other arguments go to igm fit.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/digits"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, a thread each")
    known, extra = parser.parse_known_args(arguments)
    folders = {
        (name, seed): known.out / f"{name.replace(' ', '_')}-{seed}"
        for seed in known.seeds
        for name in known.methods
    }
    jobs = {}
    for (name, seed), folder in folders.items():
        kind = getattr(modules, method_of(METHODS[name]))
        watch = _WATCH if issubclass(kind, modules.AdversarialModule) else []
        jobs[folder] = ["--config", METHODS[name], f"--seed_everything={seed}", *watch, *extra]
    diverged = train_all(jobs, known.processes)
    sound = [folder for folder in folders.values() if folder not in diverged]
    score_all(sound, ["fid", "kid", "ms_ssim"], known.processes)
    final = read_final(sound, "validate")
    methods: dict[str, list[Run | None]] = {name: [] for name in known.methods}
    for (name, _), folder in folders.items():
        methods[name].append(_read(folder, final[folder]) if folder in final else None)
    table = summary(methods)
    (known.out / "summary.md").write_text(table)
    _write_scores(methods, known.out / "scores.csv")
    sound_runs = {name: [r.fid for r in runs if r] for name, runs in methods.items()}
    drawn = {name: runs for name, runs in sound_runs.items() if runs}
    draw({"fid": drawn}, known.out / "curves.png", _HIGHLIGHTED)
    step = min(run.steps[-1] for runs in drawn.values() for run in runs)
    fids = {
        name: tuple(
            (float(np.mean(scores)), float(np.std(scores, ddof=len(scores) > 1)))
            for scores in ([run.at_step(step) for run in runs], [run.score[-1] for run in runs])
        )
        for name, runs in drawn.items()
    }
    draw_fids(fids, f"after {step:,.0f} steps", known.out / "fids.png")
    return table


if __name__ == "__main__":
    console(main, "digits")

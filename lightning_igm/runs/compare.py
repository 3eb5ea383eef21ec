"""One table and one figure of several runs."""

import argparse
import csv
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np

from lightning_igm.runs.curves import (
    SCORES,
    Curve,
    Stage,
    column,
    known,
    read_columns,
    read_curve,
    read_final,
    settings_of,
)
from lightning_igm.runs.folder import METRICS, SCORE_FILE

__all__ = ["Curve", "compare", "console", "draw", "interval", "main", "read_curve", "read_final"]

_TITLES = {"fid": "FID", "kid": "KID", "inception_score": "Inception Score"}


def compare(
    runs: Sequence[tuple[str | None, Path]],
    scores: Sequence[str] | None,
    out: Path,
    stage: Stage = "fit",
) -> str:
    """Compare runs by the scores of their training, or by the last ones of ``igm test``.

    While they trained, they are compared at the last step that all of them reached.

    Runs whose configurations differ in the seed alone are seeds of one row; so are runs of one
    label. Writes ``comparison.md``, ``comparison.csv`` (a row per run and evaluation) and
    ``comparison.png`` into a folder.

    Args:
        runs: Label, or None, and folder of each.
        scores: Names of scores; None for those of :data:`SCORES` that all runs have.
        out: The folder, made if it is not there.
        stage: Where the scores are from: ``fit`` for ``metrics.csv``, ``validate`` or ``test`` for
            the last such entry of ``scores.json``.

    Returns:
        The table, in Markdown.

    Raises:
        ValueError: A folder holds no run, the runs share no score, or were not scored alike.
    """
    groups = _grouped(runs)
    if stage == "fit":
        columns = {folder: read_columns(folder) for _, folder in runs}
    else:
        columns = read_final([folder for _, folder in runs], stage)
    shared = [name for name in SCORES if all(name in c for c in columns.values())]
    names = shared if scores is None else list(scores)
    file = METRICS if stage == "fit" else SCORE_FILE
    if not names:
        found = "; ".join(f"{folder} has {known(own)}" for folder, own in columns.items())
        raise ValueError(f"runs: they have no score in common; give one by --scores ({found})")
    curves = {
        name: {
            label: [column(columns[f], name, f / file) for f in folders]
            for label, folders in groups.items()
        }
        for name in names
    }
    table = _table(curves) if stage == "fit" else _final_table(curves, stage)
    out.mkdir(parents=True, exist_ok=True)
    (out / "comparison.md").write_text(table)
    _write_rows(curves, groups, out / "comparison.csv")
    draw(curves, out / "comparison.png")
    return table


def interval(values: Sequence[float]) -> str:
    """Mean ± standard deviation (smallest to largest); of one value, the value."""
    mean = f"{np.mean(values):.4g}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {np.std(values, ddof=1):.2g} ({min(values):.4g} to {max(values):.4g})"


def draw(
    curves: Mapping[str, Mapping[str, Sequence[Curve]]],
    path: Path,
    highlight: Collection[str] | None = None,
) -> None:
    """Scores against generator steps: for each row the mean over seeds, and their range.

    Args:
        curves: By score and row.
        path: The PNG.
        highlight: Rows in colour and in the legend, the others being grey; None for all of them.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure, axes = plt.subplots(
        1, len(curves), figsize=(5.5 * len(curves), 3.6), layout="constrained", squeeze=False
    )
    for panel, (name, rows) in zip(axes[0], curves.items(), strict=True):
        for position, (label, runs) in enumerate(rows.items()):
            steps = runs[0].steps
            scores = np.stack([np.interp(steps, run.steps, run.score) for run in runs])
            mean, marker = scores.mean(0), "o" if len(steps) == 1 else None
            if highlight is not None and label not in highlight:
                panel.plot(steps, mean, color="0.8", lw=1, marker=marker, zorder=1)
                continue
            style = ("-", "--", ":")[position // 10 % 3]
            (line,) = panel.plot(steps, mean, style, marker=marker, label=label)
            panel.fill_between(
                steps, scores.min(0), scores.max(0), color=line.get_color(), alpha=0.2
            )
        panel.set(xlabel="generator steps", ylabel=_TITLES.get(name, name))
        if name == "fid":
            panel.set_yscale("log")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
        ends = [run.steps[-1] for runs in rows.values() for run in runs]
        if max(ends) > 4 * min(ends):
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    outside = len(axes[0, -1].get_legend_handles_labels()[1]) > 6
    place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if outside else {}
    axes[0, -1].legend(fontsize="small", **place)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """``igm compare``.

    Raises:
        ValueError: The runs cannot be compared.
        OSError: A file cannot be read or written.
    """
    parser = argparse.ArgumentParser(
        prog="igm compare", description="One table and one figure of several runs."
    )
    parser.add_argument("runs", nargs="+", metavar="[LABEL=]FOLDER")
    parser.add_argument("--scores", nargs="+", help="names of scores; default: all that runs share")
    parser.add_argument(
        "--stage",
        choices=get_args(Stage),
        default="fit",
        help="scores of training, or the last of igm validate or test; default: %(default)s",
    )
    parser.add_argument("--out", type=Path, default=Path("comparison"), help="default: %(default)s")
    given = parser.parse_args(arguments)
    runs = []
    for word in given.runs:
        # A folder may have a = in its name.
        label, _, folder = ("", "", word) if Path(word).is_dir() else word.partition("=")
        runs.append((label or None, Path(folder or word)))
    try:
        print(compare(runs, given.scores, given.out, given.stage), end="")
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; install lightning_igm[studies]") from error


def console(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``igm-compare``, the old name of ``igm compare``."""
    try:
        main(arguments)
    except (ValueError, OSError) as error:
        print(f"igm-compare: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _grouped(runs: Sequence[tuple[str | None, Path]]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    settings = {folder: settings_of(folder) for label, folder in runs if not label}
    firsts = {text: folder for folder, text in reversed(settings.items())}
    names = [folder.name for folder in firsts.values()]
    for label, folder in runs:
        if not label:
            first = firsts[settings[folder]]
            # Runs of different methods may have folders of one name.
            label = first.name if names.count(first.name) == 1 else str(first)
        groups.setdefault(label, []).append(folder)
    return groups


def _final_table(curves: Mapping[str, Mapping[str, Sequence[Curve]]], stage: Stage) -> str:
    lines = [
        f"Scores of igm {stage}, of each run's checkpoint.",
        "",
        f"| | seeds | generator steps | {' | '.join(curves)} |",
        "|" + "---|" * (3 + len(curves)),
    ]
    for label, runs in next(iter(curves.values())).items():
        steps = " and ".join(f"{step:,.0f}" for step in sorted({run.steps[-1] for run in runs}))
        cells = [interval([run.score[-1] for run in rows[label]]) for rows in curves.values()]
        lines.append(f"| {label} | {len(runs)} | {steps} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _table(curves: Mapping[str, Mapping[str, Sequence[Curve]]]) -> str:
    everything = [run for rows in curves.values() for runs in rows.values() for run in runs]
    step = min(run.steps[-1] for run in everything)
    first = max(run.steps[0] for run in everything)
    if first > step:
        raise ValueError(
            f"runs: one has no score before generator step {first:,.0f} and another none after "
            f"{step:,.0f}; they cannot be compared at equal steps"
        )
    lines = [
        f"After {step:,.0f} generator steps, which all runs reached.",
        "",
        f"| | seeds | {' | '.join(curves)} |",
        "|" + "---|" * (2 + len(curves)),
    ]
    for label, runs in next(iter(curves.values())).items():
        cells = [interval([run.at_step(step) for run in rows[label]]) for rows in curves.values()]
        lines.append(f"| {label} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _write_rows(
    curves: Mapping[str, Mapping[str, Sequence[Curve]]],
    groups: Mapping[str, Sequence[Path]],
    path: Path,
) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "run", "score", "generator_step", "value"])
        for name, rows in curves.items():
            for label, runs in rows.items():
                for folder, run in zip(groups[label], runs, strict=True):
                    for step, value in zip(run.steps, run.score, strict=True):
                        writer.writerow([label, folder, name, int(step), f"{value:.10g}"])

"""One table and one figure of several runs."""

import argparse
import csv
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lightning_igm.runs.folder import CONFIG, METRICS, SCORE_FILE

__all__ = ["Curve", "compare", "console", "draw", "interval", "read_curve", "read_final"]

Stage = Literal["fit", "validate", "test"]

SCORES = (
    *("fid", "kid", "inception_score", "ms_ssim_ratio", "precision", "recall"),
    *("modes", "reverse_kl", "color_js", "modes_covered", "hq", "mmd2_0.2"),
)
"""Scores that are compared by default, where the runs have them."""
_TITLES = {"fid": "FID", "kid": "KID", "inception_score": "Inception Score"}

_UNREADABLE = (
    *(ValueError, LookupError, TypeError, AttributeError, OSError),
    *(csv.Error, YAMLError, OmegaConfBaseException),
)


class Curve(NamedTuple):
    """A score of one run."""

    steps: npt.NDArray[np.float64]
    """Generator steps ``(T,)`` of the evaluations."""
    score: npt.NDArray[np.float64]
    """``(T,)``."""
    seconds: float = float("nan")
    """Processor time of the whole run, if it is known."""

    def plateau(self) -> float:
        """Mean score over the last fifth of the evaluations."""
        return float(self.score[-max(1, len(self.score) // 5) :].mean())

    def at_step(self, step: float) -> float:
        """Score at a generator step, linear between evaluations."""
        return float(np.interp(step, self.steps, self.score))

    def at(self, seconds: float) -> float:
        """Score at a processor time, taken to be proportional to the steps."""
        return self.at_step(seconds / self.seconds * self.steps[-1])


def read_curve(folder: Path, name: str = "fid") -> Curve:
    """A score of a run, at every evaluation.

    Args:
        folder: The run's.
        name: Column of its ``metrics.csv``.

    Raises:
        ValueError: The folder holds no run, or the run has no such score.
    """
    return _column(_read(folder), name, folder / METRICS)


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
        columns = {folder: _read(folder) for _, folder in runs}
    else:
        columns = read_final([folder for _, folder in runs], stage)
    shared = [name for name in SCORES if all(name in c for c in columns.values())]
    names = shared if scores is None else list(scores)
    file = METRICS if stage == "fit" else SCORE_FILE
    if not names:
        found = "; ".join(f"{folder} has {_known(own)}" for folder, own in columns.items())
        raise ValueError(f"runs: they have no score in common; give one by --scores ({found})")
    curves = {
        name: {
            label: [_column(columns[f], name, f / file) for f in folders]
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


def console(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``igm-compare``."""
    parser = argparse.ArgumentParser(
        prog="igm-compare", description="One table and one figure of several runs."
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
        print(f"igm-compare: {error}; install lightning_igm[studies]", file=sys.stderr)
        raise SystemExit(1) from None
    except (ValueError, OSError) as error:
        print(f"igm-compare: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _grouped(runs: Sequence[tuple[str | None, Path]]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    settings = {folder: _settings(folder) for label, folder in runs if not label}
    firsts = {text: folder for folder, text in reversed(settings.items())}
    names = [folder.name for folder in firsts.values()]
    for label, folder in runs:
        if not label:
            first = firsts[settings[folder]]
            # Runs of different methods may have folders of one name.
            label = first.name if names.count(first.name) == 1 else str(first)
        groups.setdefault(label, []).append(folder)
    return groups


def _settings(folder: Path) -> str:
    """The configuration of a run, but for its seed and its folder."""
    path = folder / CONFIG
    if not path.is_file():
        return str(folder)
    with _naming(path):
        config: Any = OmegaConf.load(path)
        for key in ("seed_everything", "run"):
            config.pop(key, None)
        if config.get("trainer"):
            config.trainer.pop("default_root_dir", None)
        return OmegaConf.to_yaml(config, sort_keys=True)


def _read(folder: Path) -> dict[str, Curve]:
    """Everything in a run's ``metrics.csv``, by name."""
    path = folder / METRICS
    if not path.is_file():
        if (folder / CONFIG).is_file():  # Of a run that has logged nothing so far.
            return {}
        raise ValueError(f"{folder}: no run is there; {METRICS} is missing")
    columns = {}
    with _naming(path), path.open(newline="") as file:
        rows = list(csv.DictReader(file))
        for name in rows[0] if rows else ():
            points = [(float(row["step"]), float(row[name])) for row in rows if row.get(name)]
            if points and name != "step":
                columns[name] = Curve(*np.array(points).T)
    return columns


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say which file cannot be read: an error of the body shows as one line with its name."""
    try:
        yield
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: it is not what a run writes ({reason})") from error


def _column(columns: Mapping[str, Curve], name: str, file: Path) -> Curve:
    if name not in columns:
        raise ValueError(f"{file.parent}: no score {name!r}; its {file.name} has {_known(columns)}")
    return columns[name]


def _known(columns: Mapping[str, Curve]) -> str:
    return ", ".join(sorted(set(columns) - {"step"})) or "none yet"


def read_final(folders: Sequence[Path], stage: Stage) -> dict[Path, dict[str, Curve]]:
    """The last scores of a stage of runs that were scored alike, by run and name.

    Args:
        folders: The runs'.
        stage: ``validate`` or ``test``.

    Raises:
        ValueError: A run has no such scores, or was not scored like the first.
    """
    columns: dict[Path, dict[str, Curve]] = {}
    protocol: dict[str, Any] | None = None
    for folder in folders:
        path = folder / SCORE_FILE
        with _naming(path):
            entries = json.loads(path.read_text()) if path.is_file() else []
            mine = [
                (entry, dict(entry["protocol"])) for entry in entries if entry["stage"] == stage
            ]
        if not mine:
            raise ValueError(f"{folder}: no scores of {stage} in {SCORE_FILE}; run igm {stage}")
        entry, own = mine[-1]
        protocol = protocol or own
        for name in sorted({*protocol, *own} - {"weights"}):
            value = own.get(name)
            if value != protocol.get(name):
                raise ValueError(
                    f"{folder}: {name} was {value!r}, and {protocol.get(name)!r} in {folders[0]}; "
                    "only runs that were scored alike can be compared"
                )
        with _naming(path):
            step = np.array([float(entry["step"])])
            columns[folder] = {
                name: Curve(step, np.array([float("nan" if entry[name] is None else entry[name])]))
                for name in SCORES
                if name in entry
            }
    return columns


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

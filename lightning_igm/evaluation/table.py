"""A run's scores as text."""

from collections.abc import Sequence

from lightning_igm.metrics.score import score_classes

__all__ = ["score_table"]


def score_table(rows: Sequence[dict[str, float]]) -> list[str]:
    r"""Lines of a table: a column for each score, with its spread behind ±.

    Args:
        rows: ``step`` and scores; a score's spread has its name and ``_std``.

    Example:
        >>> print("\n".join(score_table([{"step": 20.0, "fid": 1.5, "fid_std": 0.25}])))
             step              fid
               20  1.5000 ± 0.2500
    """
    decimals = {column: kind.digits for kind in score_classes().values() for column in kind.columns}
    every = dict.fromkeys(name for row in rows for name in row)
    names = [name for name in every if name != "step" and not name.endswith("_std")]
    cells = [["step", *names]]
    cells += [
        [f"{row['step']:.0f}", *(_cell(row, name, decimals.get(name, 4)) for name in names)]
        for row in rows
    ]
    widths = [max(9, *map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{c:>{w}}" for c, w in zip(line, widths, strict=True)) for line in cells]


def _cell(row: dict[str, float], name: str, decimals: int) -> str:
    numbers = [row[key] for key in (name, f"{name}_std") if key in row]
    return " ± ".join(f"{number:.{decimals}f}" for number in numbers)

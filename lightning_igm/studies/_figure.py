"""Helpers of the studies: a command, a folder, a table, a figure."""

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["console", "figure", "out_folder", "write_table"]


def console(main: Callable[[], Any], name: str) -> None:
    """Run a study from the command line; what is wrong is said in one line, and at its start.

    Args:
        main: The study; what it returns is printed.
        name: Its name.
    """
    try:
        missing = [module for module in ("matplotlib", "scipy") if find_spec(module) is None]
        if missing:
            raise ValueError(f"there is no {', '.join(missing)}; install lightning_igm[studies]")
        printed = main()
    except (ValueError, OSError) as error:
        raise SystemExit(f"{name}: {error}") from None
    if printed is not None:
        print(printed)


def out_folder(name: str, description: str, arguments: Sequence[str] | None) -> Path:
    """Parse the command line of a study, which has ``--out`` alone, and make that folder.

    Args:
        name: Name of the study.
        description: Its module's docstring.
        arguments: What was typed; the process's own arguments by default.
    """
    parser = argparse.ArgumentParser(prog=name, description=description.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / name)
    folder: Path = parser.parse_args(arguments).out
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns as CSV, numbers with ten digits.

    Args:
        path: The file.
        columns: Tensors and arrays ``(N,)`` and lists of N, by name.
    """
    lists = [column if isinstance(column, list) else column.tolist() for column in columns.values()]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in zip(*lists, strict=True):
            writer.writerow([f"{v:.10g}" if isinstance(v, float) else v for v in row])


@contextmanager
def figure(path: Path, rows: int, columns: int, size: tuple[float, float]) -> Iterator[Any]:
    """Give an array of axes ``(rows, columns)`` to draw on, and write the PNG at the end.

    Args:
        path: The file.
        rows: Rows of axes.
        columns: Columns of axes.
        size: Inches of one of them, width and height.
    """
    import matplotlib.pyplot as plt

    inches = (columns * size[0], rows * size[1])
    drawing, axes = plt.subplots(rows, columns, figsize=inches, layout="constrained", squeeze=False)
    try:
        yield axes
        drawing.savefig(path, dpi=150)
    finally:
        plt.close(drawing)

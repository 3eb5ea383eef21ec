"""Ratios of running times, and peaks of memory.

Only ratios mean anything on a shared machine: what is compared runs in turns, A B A B, each round
gives one ratio, and the median over rounds counts. ``processor_time``, on one thread, is without
what other processes take.

A peak of memory is a fresh process's peak of resident memory (``VmHWM``) less what it was before
the function ran. Unlike the profiler's it has the libraries' work space; unlike ``ru_maxrss`` it
does not begin with the peak of the process that started it.
"""

import importlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

Seconds = dict[str, float]


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    processor_time: bool = False,
) -> list[Seconds]:
    """Seconds of every function in every round, after one round that does not count."""
    clock = time.process_time if processor_time else time.perf_counter
    times = []
    for _ in range(rounds + 1):
        seconds = {}
        for name, function in functions.items():
            start = clock()
            function()
            seconds[name] = clock() - start
        times.append(seconds)
    return times[1:]


def median_ratio(rounds: list[Seconds], ratio: Callable[[Seconds], float]) -> float:
    return statistics.median(map(ratio, rounds))


def peak_memory(module: str, *arguments: str) -> int:
    """Peak of memory, in bytes, of ``module.prepare(*arguments)()`` above what it starts from."""
    command = [sys.executable, __file__, module, *arguments]
    # Run from the project's folder, where its packages are.
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, cwd=root, env=_environment(root), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stdout.split()[-1])


def report(
    record_property: Callable[[str, object], None],
    name: str,
    ratio: float,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> None:
    """Print and record a figure, and hold it against its limit, if it has one."""
    bounds = [f"{sign} {x:.2f}" for sign, x in (("<=", at_most), (">=", at_least)) if x is not None]
    limit = " ".join(bounds)
    met = (at_most is None or ratio <= at_most) and (at_least is None or ratio >= at_least)
    record_property(name, {"ratio": round(ratio, 3), "limit": limit, "met": met})
    line = f"{name:58s} {ratio:7.2f}  {limit}"
    print(f"\n{line}", end="")
    assert met, line


def _environment(root: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(Path(__file__).parent)])}


def _resident_peak() -> int:
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in s)
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    function = importlib.import_module(sys.argv[1]).prepare(*sys.argv[2:])
    before = _resident_peak()
    function()
    print(_resident_peak() - before)

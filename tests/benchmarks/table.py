"""All that benchmarks reported, as a Markdown table."""

import platform
import shlex
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch


class Table:
    """Rows in the tests' order; limits that are missed and tests that did not run stay visible.

    Args:
        path: Of the file.
        arguments: Of pytest.
    """

    def __init__(self, path, arguments):
        self.path, self.command = Path(path), f"pytest {shlex.join(arguments)}"
        self.threads = torch.get_num_threads()
        self.rows = []

    def pytest_runtest_logreport(self, report):
        test = report.nodeid.rpartition("::")[2]
        for name, figure in report.user_properties if report.when == "call" else ():
            met = ("yes" if figure["met"] else "**no**") if figure["limit"] else ""
            self.rows.append(f"| {name} | {figure['ratio']:.2f} | {figure['limit']} | {met} |")
        if report.skipped:
            reason = report.longrepr[2].removeprefix("Skipped: ")
            self.rows.append(f"| {test} | | | not run: {reason} |")
        elif report.failed and all(figure["met"] for _, figure in report.user_properties):
            self.rows.append(f"| {test} | | | **failed** |")

    def pytest_sessionfinish(self):
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        machine = f"{processor()}, {threads}, torch {version('torch')}, {date.today()}:"
        head = ["| | Figure | Limit | Met |", "|---|---|---|---|"]
        lines = [machine, "", f"`{self.command}`", "", *head, *self.rows]
        self.path.write_text("\n".join(lines) + "\n")


def processor():
    """The processor's name; on Linux, platform does not know it."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

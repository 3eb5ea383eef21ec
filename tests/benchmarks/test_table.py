from types import SimpleNamespace

import pytest
from benchmarks.table import Table
from timing import report


def outcome(name, *figures, **attributes):
    properties = []
    for figure, ratio, limits in figures:
        try:
            report(lambda *property: properties.append(property), figure, ratio, **limits)
        except AssertionError:
            attributes["failed"] = True
    defaults = {"nodeid": f"f.py::{name}", "when": "call", "skipped": False, "failed": False}
    return SimpleNamespace(user_properties=properties, **(defaults | attributes))


@pytest.mark.parametrize(
    ("of_test", "rows"),
    [
        (outcome("a", ("x / y", 1.254, {})), ["| x / y | 1.25 |  |  |"]),
        (outcome("a", ("x", 1.0, {"at_most": 1.05})), ["| x | 1.00 | <= 1.05 | yes |"]),
        (outcome("a", ("x", 2.0, {"at_most": 1.05})), ["| x | 2.00 | <= 1.05 | **no** |"]),
        (outcome("a", ("x", 2.0, {"at_least": 8})), ["| x | 2.00 | >= 8.00 | **no** |"]),
        (outcome("a", ("x", 9.0, {"at_least": 8}), when="teardown"), []),
        (outcome("a[b]", failed=True), ["| a[b] | | | **failed** |"]),
        (
            outcome("a", ("x", 1.0, {"at_most": 2}), failed=True),
            ["| x | 1.00 | <= 2.00 | yes |", "| a | | | **failed** |"],
        ),
        (
            outcome("a", skipped=True, when="setup", longrepr=("f.py", 1, "Skipped: no such")),
            ["| a | | | not run: no such |"],
        ),
    ],
)
def test_rows(of_test, rows, tmp_path):
    table = Table(tmp_path / "table.md", ["--table", "a b"])
    table.pytest_runtest_logreport(of_test)
    table.pytest_sessionfinish()
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert "`pytest --table 'a b'`" in lines
    assert lines[lines.index("|---|---|---|---|") + 1 :] == rows

"""Losses, networks and metrics are taken into programs that know nothing of Lightning."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_igm"
SCRIPT = """
import sys, torch
from importlib import import_module
before = set(sys.modules)
for name in sys.argv[1:]:
    import_module(name)
print(*{name.partition(".")[0] for name in set(sys.modules) - before}, *sys.modules)
"""
HEAVY = {"lightning", "pytorch_lightning", "jsonargparse", "omegaconf", "wandb"}
# torchmetrics loads it; what needs no torchmetrics must not.
WITH_TORCHMETRICS = {"metrics": set()}
OURS = {f"lightning_igm.{room}" for room in ("modules", "callbacks", "runs", "cli", "data")}


@pytest.mark.parametrize("room", ["losses", "networks", "metrics"])
def test_they_load_neither_lightning_nor_the_command_line(room):
    names = [
        f"lightning_igm.{room}.{path.stem}"
        for path in (PACKAGE / room).glob("*.py")
        if path.stem != "__init__"
    ]
    command = [sys.executable, "-c", SCRIPT, "lightning_igm", f"lightning_igm.{room}", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert f"lightning_igm.{room}" in loaded
    assert not loaded & (HEAVY | OURS | WITH_TORCHMETRICS.get(room, {"sympy"}))


def test_what_is_not_there_is_told():
    import lightning_igm

    with pytest.raises(AttributeError, match="'lightning_igm' has no attribute 'MoML'"):
        _ = lightning_igm.MoML


def test_functions_of_metrics_do_not_wait_for_torchmetrics():
    command = [
        sys.executable,
        "-c",
        SCRIPT,
        "lightning_igm.metrics",
        "lightning_igm.metrics.frechet",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torchmetrics", "sympy", *HEAVY, *OURS}


FLOORS = (
    {"checks", "distributed", "_collectives", "files"},
    {"data", "losses", "metrics", "networks"},
    {"modules"},
    {"evaluation", "runs"},
    {"callbacks"},
    {"cli"},
    {"studies"},
)


def imports():
    """Rooms that import another: both names, and the file."""
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "datamodules").glob("*.py")]:
        room = "data" if PACKAGE not in path.parents else path.relative_to(PACKAGE).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            for found in re.findall(r"^lightning_igm\.(\w+)", name):
                yield room.removesuffix(".py"), found, path.name


def test_no_room_imports_from_a_floor_above():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    known = [found for found in imports() if found[0] in floor]
    assert len(known) > 500
    assert [found for found in known if floor[found[0]] < floor[found[1]]] == []

"""How long ``igm fit --help`` takes, beside the import of what it stands on.

pytest tests/benchmarks/test_start_up.py --run-slow -s
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from timing import report

ROOT = Path(__file__).parents[2]
ROUNDS = 3


def processor_seconds(*arguments):
    """Of a fresh Python; other processes on the machine take none of it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.slow
def test_help_takes_little_more_than_the_imports(record_property):
    lines = {
        "imports": ["-c", "import lightning.pytorch, torchmetrics"],
        "help": ["-m", "lightning_igm", "fit", "--help"],
    }
    # In turns, and the best of each: caches are warm then, and neighbours quiet.
    rounds = [
        {name: processor_seconds(*line) for name, line in lines.items()} for _ in range(ROUNDS)
    ]
    imports, help_text = (min(seconds[name] for seconds in rounds) for name in lines)
    name = "igm fit --help / importing Lightning and torchmetrics"
    report(record_property, name, help_text / imports, at_most=1.5)

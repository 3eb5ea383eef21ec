"""The presets of all methods on the digits, with networks of small widths."""

from pathlib import Path

import pytest
from tiny_models import fit

from lightning_igm.cli import main
from lightning_igm.cli.presets import read_preset

ROOT = Path(__file__).parents[2]
DEFAULT = ("gan/digits", "gramnet/digits", "molm/digits", "sngan/digits")
FEW = {
    "critic_steps": 1,
    "critic_interval": 1,
    "critic_burst_steps": 1,
    "pretraining": '{"layer_steps": 1, "joint_steps": 1}',
}

PRESETS = [
    pytest.param(
        path,
        id=(name := f"{path.parent.name}/{path.stem}"),
        marks=[] if name in DEFAULT else [pytest.mark.slow],
    )
    for path in sorted((ROOT / "configs").glob("*/*digits*.yaml"))
]


def two_steps(path, *words, precision="64-true"):
    """The model after two steps."""
    settings = read_preset(path)["model"]["init_args"]
    few = [f"--model.{key}={value}" for key, value in FEW.items() if key in settings]
    few += [
        f"--model.{network}.init_args.width=4"
        for network in ("generator", "critic", "decoder")
        if "width" in settings.get(network, {}).get("init_args", {})
    ]
    few += ["--data.batch_size=16", "--run.dir=none"]
    cli = main([f"--config={path}", *few, *words], run=False)
    fit(cli.model, data=cli.datamodule, max_steps=2, log_every_n_steps=0, precision=precision)
    return cli.model

"""The recipes work: each runs block by block, shortened, in a folder like a reader's."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from torchvision.models import resnet18

from lightning_igm.cli import IGMCLI, main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / ".docs" / "pages" / "recipes.md").read_text()
README = (ROOT / "README.md").read_text()
RECIPES = {part.partition("\n")[0]: part for part in re.split(r"^## ", PAGE, flags=re.M)[1:]}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
SHORT = [
    *("--trainer.max_steps=2", "--trainer.log_every_n_steps=1", "--trainer.accelerator=cpu"),
    *("--samples.num_samples=4", "--data.batch_size=16", "--metrics.every_n_steps=1"),
    *("--metrics.num_samples=80", "--metrics.kid_subset_size=40", "--metrics.kid_subsets=2"),
    *("--metrics.cache_dir=null", *QUIET),
]
NARROW = ["--model.generator.width=8", "--model.critic.width=8"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A reader's folder: photos, downloaded weights and the files that the documents name."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    draw = np.random.default_rng(0)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for number in range(20):
        pixels = draw.integers(0, 256, (80, 70, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(
            tmp_path / "photos" / ("more" * (number % 2)) / f"{number}.png"
        )
    if "resnet18-" in PAGE:
        torch.save(resnet18().state_dict(), tmp_path / "resnet18-f37072fd.pth")
    for _, block in BLOCK.findall(README) + BLOCK.findall(PAGE):
        if named := re.match(r"# (\w+\.(?:py|yaml))\n", block):
            (tmp_path / named[1]).write_text(block)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def commands(block):
    for line in block.replace("\\\n", " ").splitlines():
        yield shlex.split(re.sub(r"(callbacks\.every_n_steps) \d+", r"\1 1", line))


def run_command(words):
    if words[0] == "curl":  # The fixture has the file.
        assert Path(words[-1].rpartition("/")[2]).is_file()
    elif "--model.help" in words:
        with pytest.raises(SystemExit) as done:
            main(words[1:])
        assert done.value.code == 0
    elif words[1] == "fit":
        narrow = NARROW if "gan/folder" in words else []
        assert main([*words[1:], *SHORT, *narrow]).trainer.global_step == 2
    else:
        main([*words[1:], *QUIET])


def run_python(block, names):
    for long, short in {"=1000": "=2", "00001000": "00000002", "range(2000)": "range(2)"}.items():
        block = block.replace(long, short)
    exec(compile(block, "recipe", "exec"), names)


def run_sweep(sweep, monkeypatch):
    """The commands that W&B's agent would run parse."""
    words = sweep["command"]
    words = words[words.index("lightning_igm") + 1 : words.index("${args}")]
    with monkeypatch.context() as patch:
        patch.setattr(IGMCLI, "_run_subcommand", lambda self, subcommand: None)
        for values in zip(*(p["values"][:2] for p in sweep["parameters"].values()), strict=True):
            point = [f"--{n}={v}" for n, v in zip(sweep["parameters"], values, strict=True)]
            assert main([*words, *point, *QUIET]).model is not None


def test_there_are_recipes():
    kinds = [language for language, _ in BLOCK.findall(PAGE)]
    assert len(RECIPES) > 7
    assert {"bash", "python", "yaml"} == set(kinds)
    assert len(kinds) > 15


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")
def test_recipe_runs(name, folder, monkeypatch):
    torch.manual_seed(0)
    names = {"__name__": "recipe"}
    for language, block in BLOCK.findall(RECIPES[name]):
        if language == "python":
            run_python(block, names)
        elif language == "yaml":
            content = yaml.safe_load(block)
            if "command" in content:
                run_sweep(content, monkeypatch)
        else:
            for words in commands(block):
                run_command(words)
    if "my_metrics" in RECIPES[name]:
        [run] = (folder / "runs").iterdir()
        assert "brightness" in (run / "metrics.csv").read_text().splitlines()[0]
    if "LearningRateMonitor" in RECIPES[name]:
        for run in (folder / "runs").iterdir():
            header = (run / "metrics.csv").read_text().splitlines()[0]
            assert {"lr-generator", "lr-critic"} <= set(header.split(","))

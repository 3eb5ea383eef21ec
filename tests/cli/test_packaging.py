"""What an installed package has, and how its presets are found."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from lightning_igm.cli import console, main
from lightning_igm.cli.presets import find_config, presets, read_preset, with_config_files

ROOT = Path(__file__).parents[2]
CONFIGS = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
SOURCES = {
    path.relative_to(ROOT).as_posix()
    for package in ("lightning_igm", "datamodules")
    for path in (ROOT / package).rglob("*")
    if path.suffix in (".py", ".pt", ".typed")
}
CODE = {re.sub("^datamodules/", "lightning_igm/data/", path) for path in SOURCES}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A wheel and an sdist, built from a copy: building writes into the source."""
    pytest.importorskip("setuptools", "77")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("configs", "datamodules", "lightning_igm"):
        ignored = shutil.ignore_patterns("__pycache__", "data")  # The link.
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = (
        "import sys; from setuptools import build_meta as build; target = sys.argv[1];"
        "build.build_sdist(target); build.build_wheel(target)"
    )
    command = [sys.executable, "-c", build, str(target)]
    done = subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)
    assert "is absent from the `packages` configuration" not in done.stderr
    return target


def test_wheel_has_all_code_weights_and_presets(built):
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == CODE | {
        f"lightning_igm/{name}" for name in CONFIGS
    }


def test_sdist_has_all_that_builds_it_again(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= SOURCES | CONFIGS | {"pyproject.toml", "README.md", "LICENSE"}


def test_presets_are_found_in_what_is_installed(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "from lightning_igm.cli.presets import *;"
        "print(find_config('configs/molm/cifar10.yaml'), len(presets()), len(preset_table()))"
    )
    environment = {"PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    path, count, _ = done.stdout.split()
    assert path == str(tmp_path / "site/lightning_igm/configs/molm/cifar10.yaml")
    assert int(count) == len(presets())


def listed(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["igm", "presets", *words])
    console()
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["preset", "method", "data", "paper"]
    return [re.split("  +", row) for row in rows[: rows.index("")]]


def test_every_preset_is_listed_with_method_data_and_paper(monkeypatch, capsys):
    rows = listed([], monkeypatch, capsys)
    expected = {name for name in CONFIGS if not name.startswith("configs/sweeps/")}
    assert {f"configs/{name}.yaml" for name, *_ in rows} == expected
    for name, method, data, paper in rows:
        config = read_preset(ROOT / f"configs/{name}.yaml")
        assert config["model"]["class_path"] == method
        assert config["data"]["class_path"] == f"{data}DataModule"
        assert re.search(r"^[\w ]+ et al\., .*20\d\d$", paper)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["CIFAR10", "li et"], ["mmdgan/cifar10_li", "mmdnet/cifar10"]),
        (["hidden"], ["molm/cifar10_hidden"]),
        (["swgan", "digits", "sn_"], ["swgan/sn_digits"]),
    ],
)
def test_words_choose_presets(words, expected, monkeypatch, capsys):
    assert [row[0] for row in listed(words, monkeypatch, capsys)] == expected


def test_paper_is_that_of_the_variant(monkeypatch, capsys):
    papers = {row[0]: row[3] for row in listed([], monkeypatch, capsys)}
    assert papers["mmdgan/digits"] == "Bińkowski et al., ICLR 2018"
    assert papers["mmdgan/digits_li"] == papers["mmdgan/ring"] == "Li et al., NIPS 2017"
    assert papers["molm/cifar10"] == "Ravuri et al., NIPS workshop 2017"
    assert papers["molm/cifar10_hidden"] == "Ravuri et al., ICML 2018"


@pytest.mark.parametrize("name", ["molm/cifar10", "configs/molm/cifar10.yaml", "molm/cifar10.yaml"])
def test_a_preset_is_found_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == ROOT / "configs/molm/cifar10.yaml"


def test_a_file_wins_over_a_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("molm").mkdir()
    assert find_config("molm/digits") == ROOT / "configs/molm/digits.yaml"
    Path("molm/digits").touch()
    assert find_config("molm/digits") == Path("molm/digits")


def test_configs_come_first_in_their_order_and_the_rest_stays(tmp_path):
    digits, ring = (str(ROOT / f"configs/gan/{name}.yaml") for name in ("digits", "ring"))
    words = ["fit", "--model.x", "-5", "--config", "gan/digits", "-c=gan/ring", "--list+=[1, 2]"]
    line, files = with_config_files(words)
    expected = [f"--config={digits}", f"--config={ring}"]
    assert line == ["fit", *expected, "--model.x", "-5", "--list+=[1, 2]"]
    assert files == [Path(digits), Path(ring)]
    assert with_config_files(["-c", "gan/ring", "--a"])[0] == [f"--config={ring}", "--a"]
    assert with_config_files(["--config", "trainer: {max_steps: 3}"]) == (
        ["--config=trainer: {max_steps: 3}"],
        [],
    )


def test_a_run_of_a_packaged_preset_is_named_after_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli = main(["--data.noise=0.3", "--config=molm/digits", "--trainer.logger=false"], run=False)
    assert Path(cli.trainer.default_root_dir).name.startswith("molm-digits-2")
    assert cli.datamodule.noise == 0.3
    cli = main(["-c", "quickstart", "--trainer.logger=false"], run=False)
    assert Path(cli.trainer.default_root_dir).name.startswith("quickstart-2")


def told(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["igm", *words])
    with pytest.raises(SystemExit) as stop:
        console()
    assert stop.value.code not in (0, None)
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit", "--config", "molm/cifer10"], ["'molm/cifer10'", "did you mean molm/cifar10"]),
        (["fit", "--config=nowhere.yaml"], ["'nowhere.yaml'", "igm presets"]),
        (["presets", "cifar10", "zebra"], ["cifar10 and zebra", "igm presets"]),
        (["fit"], ["model", "--config PRESET"]),
        (["fit", "--model.critic_steps=2"], ["model"]),
    ],
)
def test_a_preset_that_is_not_there_gives_one_line(words, said, monkeypatch, capsys):
    line = told(words, monkeypatch, capsys)
    for word in ["igm: ", *said]:
        assert word in line


OWN = """
import torch
from lightning_igm import AdversarialModule

class NotAMethod(torch.nn.Module):
    pass

class WithoutGenerator(AdversarialModule):
    def critic_loss(self, real, fake):
        return fake.mean()

def function():
    pass
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("NotAMethod", "is not a subclass of ImplicitGenerativeModule"),
        ("function", "is not a subclass of ImplicitGenerativeModule"),
        ("WithoutGenerator", "generator_loss"),
        ("Misspelt", "has no attribute 'Misspelt'"),
    ],
)
def test_a_class_that_is_no_method_gives_one_line(name, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_methods.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_methods", raising=False)
    model = f"--model=own_methods.{name}"
    line = told(["fit", "--config=gan/digits", "--run.dir=run", model], monkeypatch, capsys)
    assert name in line
    assert said in line
    assert not Path("run").exists()


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_tells_the_subcommands_and_examples(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["igm", *words])
    console()
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 25
    for word in ("fit", "validate", "test", "predict", "presets"):
        assert re.search(rf"^  igm .*{word}", text, re.MULTILINE), word
    examples = re.findall(r"^  igm \w+ (--config .*)$", text, re.MULTILINE)
    assert len(examples) == 3
    find_config(examples[0].split()[1])


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_help_of_a_subcommand_can_be_read(command, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: igm [options] {command} --config PRESET_OR_FILE")
    assert "known subclasses: lightning_igm.CramerGAN" in " ".join(text.split())
    assert "torch.nn.Linear" not in text
    assert len(text.splitlines()) < 700

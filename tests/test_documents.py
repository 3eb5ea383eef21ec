"""What the documents show works: Python, command lines, paths, classes and messages."""

import argparse
import ast
import importlib
import re
import shlex
import sys
from itertools import product
from pathlib import Path

import nbformat
import pytest
import torch
import yaml

import lightning_igm
from lightning_igm.cli import IGMCLI, main
from lightning_igm.cli.presets import preset_table, presets, read_preset
from lightning_igm.runs.compare import console as compare
from lightning_igm.runs.export import console as export
from lightning_igm.studies import ring

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / ".docs" / "pages").glob("*.md"))
DOCUMENTS = {
    path.name: path.read_text() for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES)
} | {
    path.name: "\n\n".join(
        cell.source
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "markdown"
    )
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text):
    """Commands of shell blocks, and of lines of code that begin with igm and have an option."""
    for block in blocks(text, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            yield from (part for part in line.partition(" #")[0].split("&&") if part.strip())
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`(igm \w+ [^`]+)`", prose)


WHOLE = "recipes.md"  # Its blocks run in test_recipes.py.
COMMANDS = sorted(
    {shlex.join(shlex.split(c)) for n, t in DOCUMENTS.items() if n != WHOLE for c in commands(t)}
)
IGM = [line for line in COMMANDS if line.startswith("igm ")]
TOOLS = [line for line in COMMANDS if re.match(r"igm-compare |python -m lightning_igm", line)]


def test_documents_have_what_is_tested_here():
    assert len(IGM) > 15
    assert len(TOOLS) > 8
    assert sum(len(blocks(text, "python")) for text in DOCUMENTS.values()) >= 4 + 6
    assert len(blocks(DOCUMENTS["README.md"], "python")) >= 2


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A folder as a reader's, with the files that the documents name and no run."""
    folder = tmp_path_factory.mktemp("fresh")
    (folder / "mine.yaml").write_text("trainer: {max_steps: 5}\n")
    (folder / "FILE").write_bytes(b"")
    (folder / "DIR").mkdir()
    for text in DOCUMENTS.values():
        for block in blocks(text, "python"):
            if named := re.match(r"# (\w+\.py)\n", block):
                (folder / named[1]).write_text(block)
    # What the documents train in full; a file comes before a preset of its name.
    config = read_preset(presets()["molm/digits"])
    config["trainer"] |= {"max_steps": 2, "enable_progress_bar": False}
    config["metrics"]["every_n_steps"] = None
    (folder / "configs" / "molm").mkdir(parents=True)
    (folder / "configs" / "molm" / "digits.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def trained(fresh, tmp_path_factory):
    """A folder as a reader's who has a run in runs/mine."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        short = ["--trainer.max_steps=1", "--metrics.every_n_steps=null"]
        main(["fit", "--config", "quickstart", "--run.dir=runs/mine", *short, *QUIET])
    return folder


@pytest.fixture
def own_modules(monkeypatch):
    """Forget the modules of a test's folder after it."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


# --- Python ---------------------------------------------------------------------------------------


def python_blocks():
    for name, text in DOCUMENTS.items():
        if name == WHOLE:
            continue
        for number, block in enumerate(blocks(text, "python")):
            yield pytest.param(block, id=f"{name}-{number}")


@pytest.mark.parametrize("block", list(python_blocks()))
@pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")
def test_python_runs(block, fresh, trained, own_modules, monkeypatch):
    monkeypatch.chdir(trained if "runs/mine" in block else fresh)
    torch.manual_seed(0)
    given = {
        "critic": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)),
        "real": torch.rand(6, 3, 2, 2),
        "fake": torch.rand(6, 3, 2, 2),
        "real_features": torch.randn(6, 2),
        "fake_features": torch.randn(6, 2),
    }
    exec(compile(block, "document", "exec"), given | {"__name__": "document"})


# --- command lines --------------------------------------------------------------------------------


class Parsed(Exception):
    """The arguments are good; nothing else is done."""


@pytest.fixture
def parse_only(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = "parse_args", "parse_known_args"
    originals = {name: getattr(argparse.ArgumentParser, name) for name in names}

    def stopping(name):
        def parse(self, *arguments, **settings):
            with pytest.MonkeyPatch.context() as patch:
                for other, original in originals.items():
                    patch.setattr(argparse.ArgumentParser, other, original)
                originals[name](self, *arguments, **settings)
            raise Parsed

        return parse

    for name in names:
        monkeypatch.setattr(argparse.ArgumentParser, name, stopping(name))


@pytest.mark.parametrize("line", IGM)
def test_igm_takes(line, fresh, trained, own_modules, monkeypatch):
    command, *words = shlex.split(line)[1:]
    continues = command != "fit" or "--ckpt_path" in words
    monkeypatch.chdir(trained if continues else fresh)
    if command == "presets":
        assert preset_table(words)
    elif command == "export":
        monkeypatch.chdir(trained)
        export(words)
        (trained / words[1]).unlink()
    elif {"--help", "--model.help", "--data.help"} & set(words):
        with pytest.raises(SystemExit) as done:
            main([command, *words])
        assert done.value.code == 0
    elif " my_" in line:  # What a reader writes is trained with, too.
        short = ["--trainer.max_steps=2", "--metrics.every_n_steps=null", "--data.batch_size=16"]
        assert main([command, *words, *short, *QUIET]).trainer.global_step == 2
    else:
        monkeypatch.setattr(IGMCLI, "_run_subcommand", lambda self, subcommand: None)
        assert main([command, *words, *QUIET]).model is not None


@pytest.mark.parametrize("line", TOOLS)
def test_other_command_parses(line, parse_only):
    words = shlex.split(line)
    tool = compare if words[0] == "igm-compare" else importlib.import_module(words[2]).main
    with pytest.raises(Parsed):
        tool(words[1:] if tool is compare else words[3:])


def test_parsing_can_fail(parse_only):
    with pytest.raises(SystemExit):
        ring.main(["grid", "--models", "resnet"])


def test_install_commands_name_extras_that_exist():
    project = (ROOT / "pyproject.toml").read_text()
    for line in COMMANDS:
        for extras in re.findall(r"\.\[([\w,]+)\]", line):
            assert all(re.search(rf"^{extra} = \[", project, re.M) for extra in extras.split(","))


# --- names ----------------------------------------------------------------------------------------


def expanded(pattern):
    """The paths that a pattern with braces and stars stands for."""
    parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
    for choice in product(*parts):
        yield "".join(choice)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_paths_exist(name):
    text = DOCUMENTS[name]
    shown = re.findall(r"[\w.]*configs/[\w/{},*.]+\.yaml|(?:tests|\.github)/[\w/.]+\.\w+", text)
    for path in (path for pattern in shown for path in expanded(pattern)):
        assert list(ROOT.glob(path.removeprefix("/"))), path


def test_methods_of_the_table_exist():
    table = DOCUMENTS["README.md"].partition("## Methods")[2].partition("\n\n[How")[0]
    classes = re.findall(r"`([A-Z]\w+)", table)
    assert len(classes) > 12
    for name in classes:
        assert hasattr(lightning_igm, name)


# --- messages -------------------------------------------------------------------------------------


def templates():
    """Texts in the source, with … for values."""
    for package in ("lightning_igm", "datamodules"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                    yield "".join(parts)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def letters(text):
    return sum(character not in "… " for character in text)


TEMPLATES = [(letters(template), template) for template in set(templates())]


def can_say(message):
    """Whether a text in the source can come out as a message that has … for values, too."""
    return any(
        re.fullmatch(".+?".join(map(re.escape, template.split("…"))), message)
        for constant, template in TEMPLATES
        if 0.6 * letters(message) < constant <= letters(message)
    )


@pytest.mark.parametrize(
    "message", [m.strip() for text in DOCUMENTS.values() for m in blocks(text, "text")]
)
def test_library_says(message):
    assert can_say(message)


def test_library_does_not_say_everything():
    assert not can_say("run.dir: '…' is a folder that you must not use; choose another folder")

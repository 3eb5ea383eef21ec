"""A folder datamodules of the user's own beside ours, and class paths of before ours moved."""

import subprocess
import sys

import pytest

from lightning_igm.cli import main
from lightning_igm.data import GaussianDataModule

SMALL = ["--config=gan/digits", "--run.dir=run", "--trainer.logger=false"]
MINE = """
from lightning_igm.data import DigitsDataModule

class Mine(DigitsDataModule):
    pass
"""
SCRIPT = f"""
from lightning_igm.cli import main
from lightning_igm.data import DigitsDataModule

for path in ("datamodules.Mine", "datamodules.mine.Mine", "datamodules.DigitsDataModule"):
    for words in ([f"--data={{path}}"], [f"--config=data: {{{{class_path: {{path}}}}}}"]):
        made = main([*{SMALL}, *words], run=False).datamodule
        assert isinstance(made, DigitsDataModule)
        print(type(made).__module__)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_own_folder_datamodules_is_the_users(folder):
    (folder / "datamodules").mkdir()
    (folder / "datamodules/__init__.py").write_text("from datamodules.mine import Mine\n")
    (folder / "datamodules/mine.py").write_text(MINE)
    (folder / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True)
    expected = ["datamodules.mine"] * 4 + ["lightning_igm.data.digits"] * 2
    assert done.stdout.split() == expected, done.stderr


@pytest.mark.parametrize("name", ["GaussianDataModule", "gaussian.GaussianDataModule"])
def test_old_class_paths_are_read_as_the_new(name, folder):
    old = f"data:\n  class_path: datamodules.{name}\n  init_args: {{count: 200}}\n"
    (folder / "old.yaml").write_text(old)
    typed = [f"--data=datamodules.{name}", "--data.count=200"]
    for words in (typed, ["--config=old.yaml"], [f"--config={old}"]):
        cli = main([*SMALL, *words], run=False)
        assert type(cli.datamodule) is GaussianDataModule
        assert f"class_path: lightning_igm.data.{name}" in cli.parser.dump(cli.config)


def test_a_name_that_is_nowhere_is_told_as_it_was_written(folder):
    with pytest.raises(ValueError, match=r"'datamodules\.Nothing' cannot be imported"):
        main([*SMALL, "--data=datamodules.Nothing"], run=False)

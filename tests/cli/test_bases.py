"""A config that names another by ``base:`` inherits its values."""

import re
from pathlib import Path

import pytest
import yaml

from lightning_igm.cli import main
from lightning_igm.cli.presets import presets, read_preset, with_bases

MINE = "base: gan/digits\ntrainer:\n  max_steps: 7\nmodel:\n  init_args:\n    gradient_clip: 2.0\n"
QUIET = ["--run.dir=run", "--trainer.logger=false"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(MINE)
    return tmp_path


def shown(words, capsys):
    with pytest.raises(SystemExit):
        main(["fit", *words, "--print_config"])
    return yaml.safe_load(capsys.readouterr().out)


def test_the_difference_is_laid_over_the_base_and_shown_as_a_whole(folder, capsys):
    whole = shown(["--config=gan/digits"], capsys)
    assert whole["trainer"]["max_steps"] != 7
    whole["trainer"]["max_steps"] = 7
    whole["model"]["init_args"]["gradient_clip"] = 2.0
    assert shown(["--config=mine.yaml"], capsys) == whole


def test_a_base_may_have_a_base_and_what_is_typed_wins(folder):
    Path("child.yaml").write_text("base: mine.yaml\ndata:\n  init_args:\n    batch_size: 9\n")
    cli = main(["--config=child.yaml", "--model.gradient_clip=3", *QUIET], run=False)
    assert (cli.trainer.max_steps, cli.datamodule.batch_size) == (7, 9)
    assert cli.model.gradient_clip == 3.0
    assert [path.name for path in with_bases(Path("child.yaml"))] == [
        *("digits.yaml", "mine.yaml", "child.yaml")
    ]


def test_the_run_is_named_after_the_config_that_was_given(folder):
    cli = main(["--config=mine.yaml", "--trainer.logger=false"], run=False)
    assert Path(cli.trainer.default_root_dir).name.startswith("mine-2")


BAD = {
    "gan/digit": (FileNotFoundError, "base in 'mine.yaml': .*'gan/digit'.* did you mean gan/digit"),
    "mine.yaml": (ValueError, "base: 'mine.yaml' inherits from itself, by 'mine.yaml'"),
    "round.yaml": (ValueError, "base: 'round.yaml' inherits from itself, by 'mine.yaml'"),
}


@pytest.mark.parametrize("base", BAD)
def test_a_base_that_is_none_gives_one_line(base, folder):
    Path("round.yaml").write_text("base: mine.yaml\n")
    Path("mine.yaml").write_text(MINE.replace("gan/digits", base))
    kind, said = BAD[base]
    with pytest.raises(kind, match=said) as error:
        main(["fit", "--config=mine.yaml", *QUIET])
    assert "\n" not in str(error.value)
    assert not Path("run").exists()


def differences(one, other):
    keys = {*one, *other} if isinstance(one, dict) and isinstance(other, dict) else ()
    if not keys:
        return int(one != other)
    return sum(differences(one.get(key), other.get(key)) for key in keys)


def test_presets_that_inherit_hold_the_difference_only():
    inheriting = [path for path in presets().values() if len(with_bases(path)) > 1]
    assert len(inheriting) > 50
    for path in inheriting:
        *_, base, own = with_bases(path)
        assert len(own.read_text().splitlines()) < 25
        assert differences(read_preset(base), read_preset(own)) > 0


def test_every_preset_names_its_paper():
    for path in presets().values():
        texts = [part.read_text() for part in with_bases(path)]
        assert any(re.search("^# Paper: ", text, re.MULTILINE) for text in texts)

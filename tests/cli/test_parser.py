"""What the command line's parser accepts in any order, and what it says of mistakes."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
from lightning.pytorch.callbacks import RichProgressBar, Timer, progress

from lightning_igm import MoLM
from lightning_igm.cli import console, main
from lightning_igm.cli.names import did_you_mean
from lightning_igm.cli.parser import classes_first

SMALL = [
    *("--config=gan/digits", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
    *("--trainer.enable_model_summary=false", "--metrics.every_n_steps=null"),
]


def line_of(words, tmp_path, monkeypatch, capsys) -> str:
    """The one line of a mistake: the same from Python and at the console."""
    words = ["fit", *SMALL, f"--run.dir={tmp_path / 'run'}", *words]
    with pytest.raises(ValueError, match=r".") as error:
        main(words)
    monkeypatch.setattr(sys, "argv", ["igm", *words])
    with pytest.raises(SystemExit) as stop:
        console()
    assert stop.value.code not in (0, None)
    (line,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("igm: ")]
    if stop.value.code == 2:  # Of what cannot be parsed.
        assert line == f"igm: {error.value}"
    assert not (tmp_path / "run").exists()
    return line.removeprefix("igm: ")


NEAREST = {
    "--modle=MoLM": "modle: unknown key; did you mean model?",
    "--tariner.max_steps=3": "tariner.max_steps: unknown key; did you mean trainer?",
    "--trainer.max_step=3": "trainer.max_step: unknown key; did you mean max_steps?",
    "--run.dri=x": "run.dri: unknown key; did you mean dir? allowed: dir",
    "--model.critic-steps=2": "model.critic-steps: unknown key; did you mean critic_steps? ",
    "--data.siez=32": "data.siez: unknown key; did you mean size? allowed: batch_size, ",
    "--model.generator.widht=3": "model.generator.widht: unknown key; did you mean width? ",
    "--model.generator_optimizer.beta=[.1,.2]": (
        "model.generator_optimizer.beta: unknown key; did you mean betas? allowed: "
    ),
    "--model=MolM": "model: 'MolM' is not known; did you mean MoLM? allowed: GAN, ",
    "--model=lightning_igm.MolM": "has no attribute 'MolM'); did you mean MoLM? allowed: GAN, ",
    "--data=DigitDataModule": "is not known; did you mean DigitsDataModule? allowed: CIFAR10Data",
    "--model.generator=DCGANGen": "is not known; did you mean DCGANGenerator? allowed: DCGAN",
    "--model.critic_optimizer=Adan": "is not known; did you mean Adam? allowed: Adafactor, ",
    "--trainer.callbacks+=EarlyStoping": "is not known; did you mean EarlyStopping? allowed: ",
    "--trainer.logger=MLFlowLoger": "is not known; did you mean MLFlowLogger? allowed: Wandb",
}


@pytest.mark.parametrize("word", NEAREST)
def test_unknown_names_get_the_nearest(word, tmp_path, monkeypatch, capsys):
    line = line_of([word], tmp_path, monkeypatch, capsys)
    assert NEAREST[word] in line
    assert len(line) < 350


def test_the_nearest_has_the_same_letters_if_two_are_as_near():
    assert did_you_mean("modle", ["modes", "model"]) == "did you mean model? "
    assert did_you_mean("molm", ["GAN", "MoLM"]) == "did you mean MoLM? "
    assert did_you_mean("GAN", ["GAN", "SNGAN"]) == ""
    assert did_you_mean("x", ["GAN", "MoLM"]) == ""


@pytest.mark.parametrize(("word", "told"), [("fitt", "did you mean fit? it must be"), ("x", "it")])
def test_unknown_commands_get_the_nearest(word, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["igm", word])
    with pytest.raises(SystemExit):
        console()
    assert f"'{word}' is not a command; {told}" in capsys.readouterr().err


def made(words):
    cli = main([*SMALL, "--run.dir=run", *words], run=False)
    return cli.parser.dump(cli.config, skip_none=False)


ANY_ORDER = [
    ["--model=MoLM", "--model.critic_interval=3"],
    ["--data=GaussianDataModule", "--data.count=200"],
    ["--model.generator=ResNetGenerator", "--model.generator.width=8"],
    ["--model.init_args.generator=ResNetGenerator", "--model.generator.width=8"],
    ["--model.critic_optimizer=RMSprop", "--model.critic_optimizer.alpha=0.9"],
    ["--model.generator_scheduler=StepLR", "--model.generator_scheduler.step_size=3"],
    ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=x"],
    ["--trainer.callbacks=Timer", "--trainer.callbacks.duration=00:00:00:09"],
    ["--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:00:00:09"],
]


@pytest.mark.parametrize("words", ANY_ORDER, ids=lambda words: words[0])
def test_a_class_and_its_options_in_any_order(words):
    assert classes_first(words) == classes_first(words[::-1]) == words
    if "ResNetGenerator" not in words[0] and "GaussianData" not in words[0]:
        assert made(words) == made(words[::-1])


def test_an_option_before_the_class_reaches_it():
    cli = main(["--model.critic_interval", "3", "--model", "MoLM", *SMALL], run=False)
    assert isinstance(cli.model, MoLM)
    assert cli.model.critic_interval == 3


def test_options_of_appended_classes_stay_with_their_own():
    words = ["--trainer.callbacks+=A", "--trainer.callbacks.x=1", "--trainer.callbacks+=B"]
    words += ["--trainer.callbacks.init_args.y=2", "--a.b.c.d=3", "--trainer.max_steps=4"]
    assert classes_first(["fit", *words]) == ["fit", *words[:4], words[5], words[4]]


def test_options_stay_with_the_class_before_them():
    words = ["--trainer.callbacks=A", "--trainer.callbacks.x=1", "--trainer.callbacks+=B"]
    words += ["--trainer.callbacks.y=2"]
    assert classes_first(["fit", *words]) == ["fit", *words]


def test_a_default_that_is_an_enum_is_written_as_its_word(tmp_path):
    run = tmp_path / "run"
    words = ["fit", *SMALL, "--trainer.max_steps=1", f"--run.dir={run}"]
    cli = main([*words, "--trainer.callbacks+=Timer"])
    assert any(isinstance(callback, Timer) for callback in cli.trainer.callbacks)
    assert "interval: step" in (run / "config.yaml").read_text()
    again = ["--config", str(run / "config.yaml")]
    assert main(["fit", *again, f"--run.dir={tmp_path / 'two'}"]).trainer.global_step == 1


LACKING = [
    *("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks=ThroughputMonitor"),
    *("--trainer.logger=CSVLogger", "--trainer.logger+=TensorBoardLogger"),
]


@pytest.mark.parametrize("word", LACKING)
def test_what_a_class_of_lightning_lacks_is_told(word):
    with pytest.raises(ValueError, match=r"^trainer\.\w+\.\w+: not given, and needed$"):
        made([word])


@pytest.mark.parametrize("append", ["", "+"])
def test_a_package_that_is_missing_is_named(append, tmp_path, monkeypatch, capsys):
    assert progress.rich_progress  # Where the callback looks for the package.
    monkeypatch.setattr(progress.rich_progress, "_RICH_AVAILABLE", False)
    with pytest.raises(ModuleNotFoundError) as lacking:
        RichProgressBar()
    line = line_of([f"--trainer.callbacks{append}=RichProgressBar"], tmp_path, monkeypatch, capsys)
    assert line == str(lacking.value)
    if find_spec("comet_ml") is None:
        line = line_of([f"--trainer.logger{append}=CometLogger"], tmp_path, monkeypatch, capsys)
        assert line.startswith("CometLogger: Requirement 'comet-ml")


def test_errors_of_a_class_are_told_without_the_parsers_words(tmp_path, monkeypatch, capsys):
    words = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_top_k=-3"]
    line = line_of(words, tmp_path, monkeypatch, capsys)
    assert line == "Invalid value for save_top_k=-3. Must be >= -1"


@pytest.mark.parametrize("words", [["presets"], ["fit", "--help"], ["fit", "--model.help", "GAN"]])
def test_a_reader_who_has_seen_enough_ends_it_quietly(words):
    command = [sys.executable, "-m", "lightning_igm", *words]
    igm = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    igm.stdout.close()  # Before anything is written: the first write finds nobody.
    assert igm.stderr.read() == b""
    igm.stderr.close()
    assert igm.wait() == 0

"""Runs in Weights & Biases, read back from the files that it keeps of a run that is offline."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import wandb
import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from wandb.proto import wandb_internal_pb2

from lightning_igm.callbacks import ImageMetrics
from lightning_igm.cli import console, main
from lightning_igm.runs.wandb import wandb_logger

ROOT = Path(__file__).parents[2]
SMALL = [
    *("--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1", "--samples.every_n_steps=2"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--model.critic_steps=2", "--data.noise=0.25"),
]
SCORES = ["--metrics.every_n_steps=1", "--metrics.num_samples=600", "--metrics.kid_subsets=2"]
SPECTRUM = ["--trainer.callbacks+=CriticSpectrum", "--trainer.callbacks.every_n_steps=2"]
DIGITS = ["--config=gan/digits", *SMALL, *SCORES, *SPECTRUM]
WANDB = ["--trainer.logger=WandbLogger", "--trainer.logger.project=ours"]


class Kept:
    """What W&B keeps of a run that is offline: rows, the last summary, the config."""

    def __init__(self, file):
        self.file = file
        self.rows, self.summary, self.config = [], {}, {}
        self.run = None
        for record in records(file):
            if record.HasField("run"):
                self.run = record.run
                self._update(self.config, record.run.config.update)
            elif record.HasField("history"):
                self.rows.append({})
                self._update(self.rows[-1], record.history.item)
            elif record.HasField("summary"):
                self._update(self.summary, record.summary.update)
            elif record.HasField("config"):
                self._update(self.config, record.config.update)

    def _update(self, target, items):
        for item in items:
            *outer, name = item.nested_key or [item.key]
            inner = target
            for key in outer:
                inner = inner.setdefault(key, {})
            inner[name] = json.loads(item.value_json)

    def points(self, name):
        """A metric over its x-axis."""
        return [(row["trainer/global_step"], row[name]) for row in self.rows if name in row]


def records(file):
    """Records of W&B's file: blocks of parts, each behind its checksum, length and kind."""
    data, position, whole = file.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
        length, kind = (
            int.from_bytes(data[position + 4 : position + 6], "little"),
            data[position + 6],
        )
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # A whole record, or the last part of one.
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def kept(folder):
    """What W&B kept in a folder, oldest first."""
    wandb.teardown()  # Old versions write the last rows only then.
    return [Kept(file) for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_RUN_ID", "WANDB_NAME", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    yield
    wandb.teardown()  # It reads the environment once.


@pytest.fixture(scope="module")
def continued(tmp_path_factory):
    """A run of two generator steps, continued to four."""
    folder = tmp_path_factory.mktemp("continued") / "run"
    wandb.teardown()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)  # Of the tests before.
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        evaluate = ImageMetrics.evaluate

        def best_at_first(self, trainer, module):
            return {**evaluate(self, trainer, module), "fid": 10.0 + trainer.global_step}

        patch.setattr(ImageMetrics, "evaluate", best_at_first)
        run = [*DIGITS, *WANDB, f"--run.dir={folder}"]
        main(["fit", *run, "--trainer.max_steps=2"])
        main(["fit", *run, "--trainer.max_steps=4", "--ckpt_path=last"])
    return folder


def table(folder):
    rows = (folder / "metrics.csv").read_text().splitlines()
    names, *cells = [row.split(",") for row in rows]
    return [dict(zip(names, row, strict=True)) for row in cells]


def test_continued_run_is_one_run_with_the_folders_name(continued):
    first, second = kept(continued)
    assert first.run.run_id == second.run.run_id
    assert (first.run.project, first.run.display_name) == ("ours", "run")
    assert second.run.display_name == "run"


def test_metrics_are_those_of_the_csv_over_generator_steps(continued):
    first, second = kept(continued)
    expected = table(continued)
    for name in ("fid", "kid", "generator_loss", "critic_loss", "critic_condition_number"):
        given = [(int(row["step"]), float(row[name])) for row in expected if row[name]]
        assert first.points(name) + second.points(name) == given, name
    assert [step for step, _ in first.points("fid") + second.points("fid")] == [1, 2, 3, 4]
    spectrum = first.points("largest_singular_value/layers.0")
    assert [step for step, _ in spectrum] == [2]


def test_summary_has_the_best_scores_of_the_whole_run(continued):
    _, second = kept(continued)
    assert (second.summary["best/fid"], second.summary["fid"]) == (11, 14)
    kids = [float(row["kid"]) for row in table(continued) if row["kid"]]
    assert (second.summary["best/kid"], second.summary["kid"]) == (min(kids), kids[-1])


def test_sample_grids_are_the_files_of_the_run(continued):
    first, second = kept(continued)
    steps = [
        (part, step, value) for part in (first, second) for step, value in part.points("samples")
    ]
    assert [step for _, step, _ in steps] == [2, 4]
    for part, step, value in steps:
        (name,) = value["filenames"]
        logged = np.array(Image.open(part.file.parent / "files" / name))
        expected = np.array(Image.open(continued / f"samples/step_{step:08d}.png"))
        assert np.array_equal(logged, expected)


def test_config_is_the_runs(continued):
    first, _ = kept(continued)
    expected = yaml.safe_load((continued / "config.yaml").read_text())
    config = {key: value for key, value in first.config.items() if key != "_wandb"}
    assert config == expected
    assert config["data"]["init_args"]["noise"] == 0.25


def test_ring_has_scatter_plots_and_best_coverage(tmp_path):
    arguments = ["--config=gan/ring", "--data.count=400", *SMALL[:-2], *WANDB]
    arguments += ["--modes.every_n_steps=1", "--modes.num_samples=100", "--run.dir=run"]
    main(["fit", *arguments, "--trainer.max_steps=3"])
    (run,) = kept(tmp_path / "run")
    assert [step for step, _ in run.points("samples")] == [2, 3]
    for name, best in (("hq", max), ("kl_rev", min), ("mmd2_0.2", min)):
        values = [value for _, value in run.points(name)]
        assert len(values) == 3
        assert run.summary[f"best/{name}"] == best(values)
    assert "best/diverged" not in run.summary


def test_scores_of_test_go_to_the_run_at_its_generator_step(continued):
    before = len(kept(continued))
    arguments = ["--config", str(continued / "config.yaml"), "--ckpt_path=last"]
    main(["test", *arguments])
    last = kept(continued)[before]
    assert last.run.run_id == kept(continued)[0].run.run_id
    assert [step for step, _ in last.points("fid")] == [4]


@pytest.fixture
def no_key(tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))


class Made:
    def __init__(self, **arguments):
        self.arguments = arguments


def test_without_a_key_a_run_is_offline_says_so_and_never_asks(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    lines = []
    monkeypatch.setattr("lightning_igm.runs.wandb.rank_zero_info", lines.append)
    line = ["--config=gan/digits", *SMALL, *WANDB, "--metrics.every_n_steps=null"]
    main(["fit", *line, "--trainer.max_steps=1", "--run.dir=run"])
    assert lines == ["W&B has no API key, so this run is offline; `wandb login` sets one"]
    assert len(kept(tmp_path / "run")) == 1


@pytest.mark.parametrize("source", ["variable", "netrc", "mode", "argument"])
def test_with_a_key_or_without_a_need_nothing_is_changed(source, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.touch(mode=0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("WANDB_MODE")
    given = {}
    if source == "variable":
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    elif source == "netrc":
        monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:9")
        netrc.write_text(f"machine localhost login user password {'k' * 40}\n")
    elif source == "mode":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    else:
        given = {"mode": "offline"}
    made = wandb_logger(Made, tmp_path, **given)
    assert made.arguments.get("mode") == given.get("mode")


def test_variables_and_arguments_of_wandb_win(tmp_path, monkeypatch):
    (tmp_path / "wandb_id.txt").write_text("ours\n")
    mine = {"id": "mine", "name": "me", "project": "p", "save_dir": "here"}
    made = [wandb_logger(Made, tmp_path), wandb_logger(Made, tmp_path, **mine)]
    for name in ("DIR", "NAME", "PROJECT", "RUN_ID"):
        monkeypatch.setenv(f"WANDB_{name}", f"from {name}")
    made.append(wandb_logger(Made, tmp_path, save_dir="."))
    assert [each.arguments for each in made] == [
        {"save_dir": tmp_path, "project": "lightning_igm", "name": tmp_path.name, "id": "ours"},
        {"save_dir": "here", "project": "p", "name": "me", "id": "mine"},
        {"save_dir": "from DIR"},
    ]


def fails(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["igm", "fit", *DIGITS[: len(SMALL) + 1], *arguments])
    with pytest.raises(SystemExit) as stop:
        console()
    assert stop.value.code == 1
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("igm: ")]


def test_no_network_gives_one_line_that_says_what_to_do(monkeypatch, capsys):
    def refuse(**arguments):
        raise wandb.errors.CommError("connect: connection refused")

    monkeypatch.setattr(wandb, "init", refuse)
    lines = fails([*WANDB, "--run.dir=run"], monkeypatch, capsys)
    assert len(lines) == 1
    assert "connection refused" in lines[0]
    assert "WANDB_MODE=offline" in lines[0]


def test_without_wandb_one_line_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
    lines = fails([*WANDB, "--run.dir=run"], monkeypatch, capsys)
    assert lines == [
        "igm: trainer.logger: WandbLogger needs W&B; pip install 'lightning-igm[wandb]'"
    ]


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"WANDB_MODE": "online"}, "WANDB_MODE: 'online' needs an API key"),
        ({"WANDB_MODE": "shared"}, "WANDB_MODE: 'shared' needs an API key"),
        ({"WANDB_MODE": "bogus"}, "WANDB_MODE: 'bogus' is not allowed"),
        ({"WANDB_MODE": ""}, "WANDB_MODE: '' is not allowed"),
        ({"WANDB_IDENTITY_TOKEN_FILE": "nofile"}, "WANDB_IDENTITY_TOKEN_FILE: 'nofile'"),
    ],
)
@pytest.mark.usefixtures("no_key")
def test_what_would_ask_for_a_key_is_one_line(variables, line, tmp_path, monkeypatch, capsys):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (told,) = fails([*WANDB, "--run.dir=run"], monkeypatch, capsys)
    assert told.startswith(f"igm: {line}")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_key")
def test_a_mode_that_would_ask_for_a_key_is_refused(tmp_path):
    with pytest.raises(ValueError, match="mode: 'online' needs an API key"):
        wandb_logger(Made, tmp_path, mode="online")


def test_two_runs_in_python_are_two_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    ids = []
    for name in ("first", "second"):
        words = ["--config=gan/digits", *SMALL, *WANDB, "--metrics.every_n_steps=null"]
        words += [f"--run.dir={tmp_path / name}", "--trainer.max_steps=1"]
        cli = main(words, run=False)
        cli.trainer.fit(cli.model, cli.datamodule)
        ids.append((tmp_path / name / "wandb_id.txt").read_text().strip())
        assert len(list((tmp_path / name).glob(f"wandb/offline-run-*-{ids[-1]}"))) == 1
    wandb.finish()
    assert ids[0] != ids[1]


# W&B does not close the file of the sweep's values.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_sweep_over_the_class_keeps_the_models_config(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text("wandb_version: 1\nmodel:\n  value: SNGAN\n")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(parameters))
    words = ["--config=sngan/digits", *SMALL, *WANDB, "--metrics.every_n_steps=null"]
    main(["fit", *words, "--model=SNGAN", f"--run.dir={tmp_path / 'run'}", "--trainer.max_steps=1"])
    (file,) = (tmp_path / "run/wandb").glob("offline-run-*/run-*.wandb")
    config = Kept(file).config
    assert config["model"] == "SNGAN"
    assert config["model_config"]["init_args"]["critic_steps"] == 2


def test_a_run_that_fails_is_not_left_open(monkeypatch, capsys):
    lines = fails(
        [*WANDB, "--run.dir=run", "--model.generator_optimizer.lr=1e30"], monkeypatch, capsys
    )
    assert "is not finite" in lines[0]
    assert wandb.run is None


def test_tensorboard_gets_the_same(tmp_path):
    arguments = [*DIGITS, "--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=board"]
    cli = main(["fit", *arguments, "--run.dir=run", "--trainer.max_steps=2"])
    logger = cli.trainer.loggers[1]
    assert isinstance(logger, TensorBoardLogger)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(logger.log_dir)
    events.Reload()
    expected = table(tmp_path / "run")
    for name in ("fid", "generator_loss", "critic_condition_number"):
        given = [(int(row["step"]), float(row[name])) for row in expected if row[name]]
        logged = [(event.step, event.value) for event in events.Scalars(name)]
        assert logged == [(step, pytest.approx(value)) for step, value in given], name
    assert [image.step for image in events.Images("samples")] == [2]
    fids = [float(row["fid"]) for row in expected if row["fid"]]
    assert events.Scalars("best/fid")[-1].value == pytest.approx(min(fids))
    assert "hp_metric" not in events.Tags()["scalars"]
    parameters = (Path(logger.log_dir) / "hparams.yaml").read_text()
    assert "noise: 0.25" in parameters


def test_a_continued_run_goes_on_in_its_tensorboard_folder(tmp_path):
    arguments = [*DIGITS, "--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=board"]
    main(["fit", *arguments, "--run.dir=run", "--trainer.max_steps=1"])
    main(["fit", *arguments, "--run.dir=run", "--trainer.max_steps=2", "--ckpt_path=last"])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert [event.step for event in events.Scalars("generator_loss")] == [1, 2]

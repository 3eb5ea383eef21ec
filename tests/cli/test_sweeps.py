"""Every sweep's commands, made by W&B's own agent, parse and run; wrong values give one line."""

import sys
from pathlib import Path

import nbformat
import pytest
import wandb
import yaml
from wandb import wandb_agent

from lightning_igm import modules
from lightning_igm.cli import console, main
from lightning_igm.cli.names import is_method
from lightning_igm.cli.presets import method_of

SWEEPS = sorted((Path(__file__).parents[2] / "configs/sweeps").glob("*.yaml"))
SHRUNK = [
    *("--trainer.max_steps=2", "--trainer.accelerator=cpu", "--metrics.every_n_steps=1"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--metrics.num_samples=600", "--metrics.kid_subsets=2", "--samples.num_samples=4"),
]


def values(parameter):
    return parameter.get("values") or [parameter["min"], parameter["max"]]


def points(sweep):
    """Every value of every parameter; all first ones together, and all last ones."""
    every = {name: values(parameter) for name, parameter in sweep["parameters"].items()}
    rounds = range(max(map(len, every.values())))
    found = [{name: given[i % len(given)] for name, given in every.items()} for i in rounds]
    return [*found, {name: given[-1] for name, given in every.items()}]


@pytest.fixture
def command(monkeypatch, tmp_path):
    """What W&B's agent would run for a point of a sweep, less ``python -m lightning_igm``."""
    commands = []
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "set by the agent, and unset after the test")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(
        wandb_agent, "AgentProcess", lambda command, **kwargs: commands.append(command)
    )

    def expand(sweep, point):
        agent = wandb_agent.Agent(api=None, queue=None, sweep_id="sweep")
        agent._sweep_command = list(sweep["command"])
        # ``_run_processes`` takes a process: the agent sets an attribute of what it started.
        commands.clear()
        with pytest.raises(AttributeError):
            agent._command_run(
                {
                    "run_id": "run-of-sweep",
                    "program": sweep["program"],
                    "args": {name: {"value": value} for name, value in point.items()},
                }
            )
        interpreter = ["/usr/bin/env", "python", "-m", sweep["program"]]
        assert commands[0][:4] == interpreter
        return commands[0][4:]

    yield expand
    wandb.teardown()  # W&B reads the environment once; the next test's is another.


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_command_of_a_sweep_parses_to_its_point(path, command):
    sweep = yaml.safe_load(path.read_text())
    for point in points(sweep):
        subcommand, *line = command(sweep, point)
        assert subcommand == "fit"
        cli = main([*line, "--trainer.logger=false", "--run.dir=run"], run=False)
        for name, value in point.items():
            assert_taken(cli, name, value)


def assert_taken(cli, name, value):
    if name == "config":
        method = cli.config.model.class_path.rpartition(".")[2]
        assert method == method_of(value)
        return
    node = cli.config
    for key in name.split("."):
        node = node.init_args if "init_args" in node else node
        node = node[key]
    assert (list(node) if isinstance(value, list) else node) == value


# W&B leaves the agent's file of parameters open.
@pytest.mark.filterwarnings("ignore:.*wandb/sweep-:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_point_of_a_sweep_runs(path, command):
    sweep = yaml.safe_load(path.read_text())
    line = command(sweep, points(sweep)[0])
    cli = main([*line, *SHRUNK, "--run.dir=run"])
    assert cli.trainer.global_step == 2
    # The sweep's name for what it minimises, and the agent's for the run.
    assert sweep["metric"]["name"] in Path("run/metrics.csv").read_text().splitlines()[0]
    assert Path("run/wandb_id.txt").read_text() == "run-of-sweep\n"


def test_sweeps_of_learning_rates_leave_no_method_out():
    sweeps = [yaml.safe_load(path.read_text())["parameters"] for path in SWEEPS]
    presets = [
        preset for sweep in sweeps if "config" in sweep for preset in values(sweep["config"])
    ]
    swept = {method_of(preset) for preset in presets}
    assert swept == {name for name in modules.__all__ if is_method(getattr(modules, name))}


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ({"model.critic_steps": 8.0}, ["model.critic_steps: 8.0", "int"]),
        ({"model.critic_steps": None}, ["model.critic_steps: None", "int"]),
        ({"model.generator_optimizer.lr": None}, ["generator_optimizer.lr: None", "float"]),
        (
            {"config": "gan/digits", "model.critic_burst_steps": None},
            ["critic_burst_steps: None", "int", "null"],
        ),
        ({"model.critic.out_dim": [1, 2]}, ["critic.out_dim: [1, 2]", "int"]),
        ({"model.penalty_weight": "much"}, ["penalty_weight: much", "float"]),
        ({"model": {"penalty_weight": {"value": 1}}}, ["model"]),
        ({"config": "molm/digit"}, ["config: 'molm/digit'", "molm/digits"]),
    ],
)
def test_a_value_of_the_wrong_type_gives_one_line(point, words, command, monkeypatch, capsys):
    (path,) = (path for path in SWEEPS if path.stem == "molm")
    line = command(yaml.safe_load(path.read_text()), point)
    monkeypatch.setattr(sys, "argv", ["igm", *line])
    with pytest.raises(SystemExit) as stop:
        console()
    assert stop.value.code not in (0, None)
    (error,) = capsys.readouterr().err.strip().splitlines()
    for word in ["igm: ", *words]:
        assert word in error


@pytest.mark.filterwarnings("ignore:.*wandb/sweep-:pytest.PytestUnraisableExceptionWarning")
def test_the_sweep_of_the_notebook_runs_over_its_loss(command, monkeypatch):
    notebook = Path(__file__).parents[2] / "notebooks" / "own_loss.ipynb"
    for cell in nbformat.read(notebook, as_version=4).cells:
        magic, _, content = cell.source.partition("\n")
        if magic.startswith("%%writefile"):
            Path(Path(magic.split()[1]).name).write_text(content)
    monkeypatch.syspath_prepend(Path.cwd())
    sweep = yaml.safe_load(Path("my_sweep.yaml").read_text())
    monkeypatch.delitem(sys.modules, "my_losses", raising=False)
    cli = main([*command(sweep, points(sweep)[-1]), *SHRUNK, "--run.dir=run"])
    monkeypatch.delitem(sys.modules, "my_losses")
    assert type(cli.model).__name__ == "LeastSquaresGAN"
    assert cli.trainer.global_step == 2

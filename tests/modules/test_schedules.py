"""Each schedule that is offered works from the command line, a continued run included."""

import pytest
import torch
from tiny_models import tiny

from lightning_igm.cli import main
from lightning_igm.cli.errors import plain
from lightning_igm.cli.names import _SCHEDULES

SMALL = [
    *("--config=gan/digits", "--trainer.accelerator=cpu", "--metrics.every_n_steps=null"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
]
ARGUMENTS = {
    "LambdaLR": ["lr_lambda=test_schedules.half"],
    "MultiplicativeLR": ["lr_lambda=test_schedules.half"],
    "StepLR": ["step_size=1"],
    "MultiStepLR": ["milestones=[1,3]"],
    "ConstantLR": ["total_iters=2"],
    "LinearLR": ["total_iters=3"],
    "ExponentialLR": ["gamma=.5"],
    "CosineAnnealingLR": ["T_max=5"],
    "CyclicLR": ["base_lr=1e-4", "max_lr=1e-3", "step_size_up=2"],
    "CosineAnnealingWarmRestarts": ["T_0=3"],
    "OneCycleLR": ["max_lr=1e-3", "total_steps=6"],
    "PolynomialLR": [],
}


def half(step):
    return 0.5**step


def words_of(name, arguments):
    key = "--model.generator_scheduler"
    return [*SMALL, f"{key}={name}", *(f"{key}.{argument}" for argument in arguments)]


@pytest.mark.parametrize("name", _SCHEDULES)
def test_what_is_offered_works_and_is_continued(name, tmp_path):
    words = words_of(name, ARGUMENTS[name])

    def run(folder, steps, *more):
        line = [*words, f"--run.dir={tmp_path / folder}", f"--trainer.max_steps={steps}", *more]
        cli = main(["fit", *line])
        rate = cli.trainer.optimizers[0].param_groups[0]["lr"]
        return rate, cli.model.state_dict(), type(cli.trainer.lr_scheduler_configs[0].scheduler)

    run("stopped", 2)
    rate, state, kind = run("stopped", 4, "--ckpt_path=last")
    expected, straight, _ = run("straight", 4)
    assert kind.__name__ == name
    assert rate == expected
    for key, value in straight.items():
        assert torch.equal(state[key], value), key


REFUSED = [
    ("ReduceLROnPlateau", []),
    ("ReduceLROnPlateau", ["patience=3"]),
    ("torch.optim.lr_scheduler.ReduceLROnPlateau", []),
    ("lightning.pytorch.cli.ReduceLROnPlateau", []),
    ("lightning.pytorch.cli.ReduceLROnPlateau", ["monitor=fid"]),
    ("SequentialLR", []),
    ("SequentialLR", ["milestones=[2]", "schedulers=[]"]),
    ("ChainedScheduler", []),
    ("ChainedScheduler", ["schedulers=[]"]),
]


@pytest.mark.parametrize(("name", "arguments"), REFUSED)
def test_what_cannot_step_by_itself_is_refused(name, arguments, tmp_path):
    with pytest.raises(ValueError, match="_scheduler") as error:
        main(["fit", *words_of(name, arguments), f"--run.dir={tmp_path / 'run'}"])
    line = plain(str(error.value)).removeprefix("model.")
    kind = name.rpartition(".")[2]
    assert line.startswith(f"generator_scheduler: {kind} is not allowed; it must ")
    assert ("KIDLearningRate" in line) == (kind == "ReduceLROnPlateau")
    assert not (tmp_path / "run").exists()


def test_the_name_in_a_file_is_refused_too(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("model: {init_args: {critic_scheduler: {class_path: ReduceLROnPlateau}}}\n")
    with pytest.raises(ValueError, match=r"critic_scheduler: ReduceLROnPlateau is not allowed"):
        main([*SMALL, "--config", str(own)], run=False)


@pytest.mark.parametrize("player", ["generator", "critic"])
def test_in_python_it_is_refused_before_training(player):
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
    model = tiny(**{f"{player}_scheduler": plateau})
    with pytest.raises(ValueError, match=rf"^{player}_scheduler: ReduceLROnPlateau is not"):
        model.configure_optimizers()


def test_bad_arguments_of_a_schedule_name_it():
    model = tiny(
        generator_scheduler=lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
            optimizer, [], []
        )
    )
    with pytest.raises(ValueError, match=r"^generator_scheduler: SequentialLR expects"):
        model.configure_optimizers()

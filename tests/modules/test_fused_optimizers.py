"""Fused optimizers by the command line: clipped, continued to the bit, switched on in between."""

from pathlib import Path

import pytest
import torch

from lightning_igm.cli import main

PRESET = Path(__file__).parents[2] / "configs/gan/digits.yaml"
FUSED = [
    *("--model.generator_optimizer.fused=true", "--model.critic_optimizer.fused=true"),
    "--model.gradient_clip=0.01",
]


def run(folder, steps, *words):
    cli = main(
        [
            *("fit", f"--config={PRESET}", f"--run.dir={folder}", f"--trainer.max_steps={steps}"),
            *(
                "--data.batch_size=8",
                "--metrics.every_n_steps=null",
                "--samples.every_n_steps=99",
            ),
            *("--model.generator.width=4", "--model.critic.width=4", "--trainer.accelerator=cpu"),
            *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
            *words,
        ]
    )
    optimizers = [optimizer.state_dict() for optimizer in cli.trainer.optimizers]
    return {"model": cli.model.state_dict(), "optimizers": optimizers}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return run(tmp_path_factory.mktemp("straight"), 6, *FUSED)


def test_the_steps_are_those_of_the_usual_optimizer(straight, tmp_path):
    assert all(group["fused"] for o in straight["optimizers"] for group in o["param_groups"])
    usual = run(tmp_path, 6, FUSED[-1])
    torch.testing.assert_close(straight["model"], usual["model"], rtol=1e-4, atol=1e-6)


def test_a_continued_run_is_the_same_run(straight, tmp_path):
    run(tmp_path, 3, *FUSED)
    continued = run(tmp_path, 6, *FUSED, "--ckpt_path=last")
    torch.testing.assert_close(continued, straight, rtol=0, atol=0)


def test_a_run_may_go_on_with_them(straight, tmp_path):
    run(tmp_path, 3, FUSED[-1])
    continued = run(tmp_path, 6, *FUSED, "--ckpt_path=last")
    torch.testing.assert_close(continued["model"], straight["model"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("formats", [("true", "false"), ("false", "true")])
def test_a_run_may_go_on_in_another_memory_format(straight, tmp_path, formats):
    """What the optimizer keeps was saved in the one, the weights lie in the other."""
    before, after = (f"--model.channels_last={value}" for value in formats)
    run(tmp_path, 3, *FUSED, before)
    continued = run(tmp_path, 6, *FUSED, after, "--ckpt_path=last")
    torch.testing.assert_close(continued["model"], straight["model"], rtol=1e-4, atol=1e-6)

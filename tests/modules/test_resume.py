"""A run that is stopped and continued is the run that was not stopped, to the last bit."""

import pytest
import torch
from lightning.pytorch import Callback
from tiny_models import assert_equal

from lightning_igm.cli import main

STEPS, CRITIC_STEPS, INTERVAL = 12, 5, 4
CONFIG = f"""
trainer:
  max_steps: {STEPS}
  log_every_n_steps: 1
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
model:
  class_path: MoLM
  init_args:
    latent_dim: 4
    generator:
      class_path: DCGANGenerator
      init_args: {{latent_dim: 4, image_size: 16, width: 2, init: he}}
    critic:
      class_path: DCGANCritic
      init_args: {{image_size: 16, width: 2, hidden_dim: 4, init: he}}
    generator_optimizer:
      class_path: Adam
      init_args: {{lr: 0.01}}
    critic_optimizer:
      class_path: Adam
      init_args: {{lr: 0.01}}
    critic_steps: {CRITIC_STEPS}
    critic_interval: {INTERVAL}
data:
  class_path: tiny_models.NoiseImages
  init_args: {{batch_size: 4, size: 16}}
"""


class StopBefore(Callback):
    """Ctrl-C before a batch, of all that were trained on since the start of the run."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.total_batch_idx == self.batch:
            pl_module.in_training_step = False
            raise KeyboardInterrupt


def run(folder, *more):
    config = folder.with_name("config.yaml")
    config.write_text(CONFIG)
    main(["fit", "--config", str(config), "--run.dir", str(folder), *more])


def stop_before(batch):
    return "--trainer.callbacks", "test_resume.StopBefore", "--trainer.callbacks.batch", str(batch)


def outcome(folder):
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    names = "state_dict", "optimizer_states", "training_state", "global_step"
    kept = {name: state[name] for name in names}
    data = {key: value for key, value in state.items() if "NoiseImages" in key}
    assert data, list(state)
    return kept | data | {"metrics": (folder / "metrics.csv").read_text()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "straight"
    run(folder)
    return outcome(folder)


def test_the_straight_run_is_the_reference(straight):
    assert straight["global_step"] == STEPS
    assert straight["training_state"]["data_moments"].isfinite().all()


# A block is CRITIC_STEPS + INTERVAL batches; an epoch has five.
@pytest.mark.parametrize(
    "batch",
    [CRITIC_STEPS, CRITIC_STEPS + 2, CRITIC_STEPS + INTERVAL + 2],
    ids=["end of a phase", "middle of a block", "middle of a phase"],
)
def test_a_continued_run_is_the_same_run(straight, tmp_path, batch):
    folder = tmp_path / "run"
    with pytest.raises(SystemExit):
        run(folder, *stop_before(batch))
    stopped = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    steps, phase = divmod(batch, CRITIC_STEPS + INTERVAL)
    assert stopped["global_step"] == steps * INTERVAL + max(0, phase - CRITIC_STEPS)
    run(folder, "--ckpt_path", "last")
    assert_equal(outcome(folder), straight)


def test_a_run_stopped_and_continued_many_times_is_the_same_run(straight, tmp_path):
    folder = tmp_path / "run"
    for batch in (2, CRITIC_STEPS + INTERVAL, 16):
        with pytest.raises(SystemExit):
            run(folder, *stop_before(batch), "--ckpt_path", "last")
    run(folder, "--ckpt_path", "last")
    assert_equal(outcome(folder), straight)


def test_continuing_takes_the_data_moments_from_the_checkpoint(straight, tmp_path, monkeypatch):
    from lightning_igm.modules import MoLM

    folder = tmp_path / "run"
    with pytest.raises(SystemExit):
        run(folder, *stop_before(CRITIC_STEPS + 2))
    before = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)

    def refuse(self):
        raise AssertionError("the critic did not change since the moments were computed")

    monkeypatch.setattr(MoLM, "training_set_moments", refuse)
    run(folder, "--ckpt_path", "last", "--trainer.max_steps", str(INTERVAL))
    after = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    moments = [state["training_state"]["data_moments"] for state in (before, after)]
    assert torch.equal(*moments)
    for key, value in before["state_dict"].items():
        if key.startswith("critic."):
            assert torch.equal(after["state_dict"][key], value)

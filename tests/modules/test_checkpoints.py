"""What a module puts into a checkpoint, and when it refuses to be saved."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_models import copied, fit, same, tiny, tiny_critic, tiny_generator

from lightning_igm.callbacks.checkpoint import GeneratorCheckpoint
from lightning_igm.modules import GAN, MoLM, NonFiniteLossError

# --- a loss that is not finite ------------------------------------------------------------------


class Failing(GAN):
    """One player's loss is not finite at one of its updates."""

    def __init__(self, *args, player="generator", at=5, value=float("nan"), **kwargs):
        super().__init__(*args, **kwargs)
        self.failing, self.at, self.value = player, at, value
        self.seen = 0

    def update(self, player, loss):
        if player == self.failing:
            self.seen += 1
            if self.seen == self.at + 1:
                loss = loss * self.value
        super().update(player, loss)


def finite(path):
    state = torch.load(path, weights_only=True)["state_dict"]
    return all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize("player", ["generator", "critic"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_run_stops_at_the_next_save_and_names_the_step(tmp_path, player, value):
    keep = GeneratorCheckpoint(every_n_steps=2, dirpath=str(tmp_path))
    model = tiny(Failing, player=player, value=value)
    with pytest.raises(NonFiniteLossError) as error:
        fit(model, keep, max_steps=20, enable_checkpointing=True)
    message = str(error.value)
    assert message.startswith(f"{player}_loss is not finite at generator step 5")
    assert str(tmp_path / "last.ckpt") in message
    assert "\n" not in message
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "previous.ckpt"}
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    assert finite(tmp_path / "last.ckpt")


def test_without_a_checkpoint_the_message_says_so(tmp_path):
    keep = GeneratorCheckpoint(every_n_steps=10, dirpath=str(tmp_path))
    with pytest.raises(NonFiniteLossError, match=r"step 3;.*none was saved"):
        fit(tiny(Failing, at=3), keep, max_steps=20, enable_checkpointing=True)
    assert not list(tmp_path.iterdir())


def test_without_callbacks_the_run_stops_all_the_same():
    with pytest.raises(NonFiniteLossError, match=r"generator_loss.*step 1;.*none was saved"):
        fit(tiny(Failing, at=1), max_steps=200)


@pytest.mark.parametrize("player", ["generator", "critic"])
def test_a_bad_loss_in_the_very_last_step_is_found(tmp_path, player):
    keep = GeneratorCheckpoint(every_n_steps=3, dirpath=str(tmp_path))
    with pytest.raises(NonFiniteLossError, match=f"{player}_loss.*step 3;"):
        fit(tiny(Failing, player=player, at=3), keep, max_steps=4, enable_checkpointing=True)
    assert finite(tmp_path / "last.ckpt")


def test_a_bad_loss_before_a_stop_is_not_saved(tmp_path):
    class Stopped(Failing):
        def on_train_batch_start(self, batch, batch_idx):
            super().on_train_batch_start(batch, batch_idx)
            if batch_idx == 7:
                # As a limit of time or a signal, between two batches.
                self.in_training_step = False
                raise KeyboardInterrupt

    keep = GeneratorCheckpoint(every_n_steps=4, dirpath=str(tmp_path))
    with pytest.raises((NonFiniteLossError, SystemExit)):
        fit(tiny(Stopped, at=5), keep, max_steps=20, enable_checkpointing=True)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4
    assert finite(tmp_path / "last.ckpt")


def test_lightnings_own_checkpoints_are_never_of_bad_weights(tmp_path):
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=2, save_top_k=-1)
    with pytest.raises(NonFiniteLossError):
        fit(tiny(Failing, at=3), keep, max_steps=20, enable_checkpointing=True)
    saved = sorted(tmp_path.iterdir())
    assert len(saved) == 1
    assert finite(saved[0])


# --- hyper-parameters ---------------------------------------------------------------------------


def saved(model, tmp_path):
    trainer = fit(model, max_steps=2)
    path = tmp_path / "model.ckpt"
    trainer.save_checkpoint(path)
    return path


@pytest.mark.parametrize("kind", [GAN, MoLM])
def test_a_module_built_in_python_loads_without_executing_code(tmp_path, kind):
    model = tiny(kind, critic_steps=2, latent_distribution="uniform")
    path = saved(model, tmp_path)
    hyper_parameters = torch.load(path, weights_only=True)["hyper_parameters"]
    assert hyper_parameters["critic_steps"] == 2
    assert hyper_parameters["latent_dim"] == 4
    assert "generator" not in hyper_parameters
    loaded = kind.load_from_checkpoint(
        path, generator=tiny_generator(seed=1), critic=tiny_critic(seed=1), weights_only=True
    )
    assert same(copied(loaded), copied(model))
    assert loaded.critic_steps == 2
    assert loaded.latent_distribution == "uniform"
    noise = torch.Generator().manual_seed(0)
    images = loaded.sample(2, noise)
    assert torch.equal(images, model.sample(2, noise.manual_seed(0)))


def test_building_a_module_warns_of_nothing(recwarn):
    tiny(GAN)
    tiny(MoLM)
    assert [str(warning.message) for warning in recwarn] == []


# --- a continued run ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [GAN, MoLM])
def test_noise_and_counters_go_on(tmp_path, kind):
    model = tiny(kind, critic_steps=3)
    path = saved(model, tmp_path)
    state = torch.load(path, weights_only=True)["training_state"]
    assert torch.equal(state["noise"], model.noise.get_state())
    assert state["critic_steps_taken"] == 0
    loaded = tiny(kind, critic_steps=3)
    loaded.load_training_state(state)
    loaded.on_fit_start()
    assert torch.equal(loaded.training_latent(3), model.training_latent(3))

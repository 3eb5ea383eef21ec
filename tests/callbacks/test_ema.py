import pytest
import torch
from lightning.pytorch import Callback
from tiny_gan import TinyGAN, TinyImages, assert_same_training, fitted_state, tiny_trainer
from torch import nn

from lightning_igm.callbacks.ema import GeneratorEMA, evaluation_weights


class Recorder(Callback):
    """Keeps the generator's weights at the start and after every generator step."""

    def __init__(self):
        self.weights = []
        self.step = 0

    def on_train_start(self, trainer, pl_module):
        self.weights = [copied(pl_module.generator)]
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            self.weights.append(copied(pl_module.generator))


def copied(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def by_hand(weights, decay):
    average = dict(weights[0])
    for step in weights[1:]:
        for key, value in step.items():
            if value.is_floating_point():
                average[key] = decay * average[key] + (1 - decay) * value
            else:
                average[key] = value
    return average


def assert_close(average, expected):
    assert average.keys() == expected.keys()
    for key, value in expected.items():
        assert average[key].dtype == value.dtype
        torch.testing.assert_close(average[key], value, rtol=1e-5, atol=1e-6)


def test_the_average_equals_the_recursion_by_hand(tmp_path):
    ema, recorder = GeneratorEMA(0.9), Recorder()
    fitted_state(tmp_path, ema, recorder)
    assert len(recorder.weights) == 7
    assert_close(ema.state_dict()["average"], by_hand(recorder.weights, 0.9))


def test_the_average_starts_as_a_copy_at_start_step(tmp_path):
    ema, recorder = GeneratorEMA(0.9, start_step=4), Recorder()
    fitted_state(tmp_path, ema, recorder)
    assert_close(ema.state_dict()["average"], by_hand(recorder.weights[4:], 0.9))


def test_batches_of_the_critic_do_not_update(tmp_path):
    ema, recorder = GeneratorEMA(0.5), Recorder()
    # Ends on two critic batches: the five batches of an epoch after the last generator step.
    fitted_state(tmp_path, ema, recorder, critic_steps=2, max_steps=-1, max_epochs=4)
    assert len(recorder.weights) == 5
    expected = by_hand(recorder.weights, 0.5)
    assert_close(ema.state_dict()["average"], expected)


@pytest.mark.parametrize("ema", [GeneratorEMA(0.9), GeneratorEMA(None)])
def test_training_does_not_notice(tmp_path, ema):
    assert_same_training(fitted_state(tmp_path, ema), fitted_state(tmp_path))


def test_without_decay_nothing_happens(tmp_path):
    ema = GeneratorEMA(None)
    model, state, _ = fitted_state(tmp_path, ema)
    assert ema.state_dict() == {}
    with ema.average(model):
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_average_swaps_and_restores_bit_for_bit(tmp_path):
    ema = GeneratorEMA(0.9)
    model, _, _ = fitted_state(tmp_path, ema)
    before = copied(model.generator)
    average = ema.state_dict()["average"]
    with ema.average(model):
        inside = copied(model.generator)
    assert all(torch.equal(inside[key], average[key]) for key in average)
    assert not torch.equal(inside["0.weight"], before["0.weight"])
    after = model.generator.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_the_trained_weights_come_back_after_an_exception(tmp_path):
    ema = GeneratorEMA(0.9)
    model, _, _ = fitted_state(tmp_path, ema)
    before = copied(model.generator)
    with pytest.raises(RuntimeError, match="inside"), ema.average(model):
        raise RuntimeError("inside")
    after = model.generator.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_gradients_stay_possible_inside(tmp_path):
    ema = GeneratorEMA(0.9)
    model, _, _ = fitted_state(tmp_path, ema)
    with ema.average(model):
        model(torch.ones(2, 2)).sum().backward()
    assert model.generator[0].weight.grad is not None


class Looker(Callback):
    """Looks at the weights to evaluate after each step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with evaluation_weights(trainer, pl_module):
            self.seen.append(copied(pl_module.generator))


def test_evaluation_weights_do_not_depend_on_the_order_of_callbacks(tmp_path):
    first, last = Looker(), Looker()
    recorder = Recorder()
    ema = GeneratorEMA(0.9)
    fitted_state(tmp_path, recorder, first, ema, last)
    for steps, (one, other) in enumerate(zip(first.seen, last.seen, strict=True), start=1):
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert_close(one, by_hand(recorder.weights[: steps + 1], 0.9))


@pytest.mark.parametrize("callbacks", [(), (GeneratorEMA(None),), (GeneratorEMA(0.5, 100),)])
def test_evaluation_weights_without_an_average_are_the_trained_ones(tmp_path, callbacks):
    recorder, looker = Recorder(), Looker()
    fitted_state(tmp_path, recorder, looker, *callbacks)
    assert torch.equal(looker.seen[-1]["0.weight"], recorder.weights[-1]["0.weight"])


def test_a_resumed_run_continues_the_same_average(tmp_path):
    straight, halves = GeneratorEMA(0.9), GeneratorEMA(0.9)
    recorder = Recorder()
    trainer = tiny_trainer(tmp_path, straight, recorder, max_steps=3)
    torch.manual_seed(0)
    model, data = TinyGAN(), TinyImages()
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(tmp_path / "half.ckpt")

    checkpoint = torch.load(tmp_path / "half.ckpt", weights_only=True)
    saved = checkpoint["callbacks"]["GeneratorEMA"]["average"]
    assert_close(saved, by_hand(recorder.weights, 0.9))

    recorder = Recorder()
    resumed = tiny_trainer(tmp_path, halves, recorder, max_steps=5)
    resumed.fit(TinyGAN(), datamodule=TinyImages(), ckpt_path=tmp_path / "half.ckpt")
    assert len(recorder.weights) == 3
    expected = by_hand([saved, *recorder.weights[1:]], 0.9)
    assert_close(halves.state_dict()["average"], expected)


def test_validate_uses_the_average_of_the_checkpoint(tmp_path):
    ema = GeneratorEMA(0.9)
    trainer = tiny_trainer(tmp_path, ema)
    torch.manual_seed(0)
    trainer.fit(TinyGAN(), datamodule=TinyImages())
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    class ValidationLooker(Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            with evaluation_weights(trainer, pl_module):
                self.seen = copied(pl_module.generator)

    looker = ValidationLooker()
    validator = tiny_trainer(tmp_path, GeneratorEMA(0.9), looker, limit_val_batches=1)
    validator.validate(
        TinyGAN(), datamodule=TinyImages(), ckpt_path=tmp_path / "last.ckpt", verbose=False
    )
    average = ema.state_dict()["average"]
    assert all(torch.equal(looker.seen[key], average[key]) for key in average)


def test_an_average_of_another_generator_is_refused(tmp_path):
    ema = GeneratorEMA(0.9)
    ema.load_state_dict({"average": {"0.weight": torch.zeros(3, 3)}})
    with pytest.raises(ValueError, match="do not fit the generator"):
        fitted_state(tmp_path, ema)


def test_a_module_without_generator_is_refused():
    model = TinyGAN()
    model.generator = nn.Identity()
    ema = GeneratorEMA(0.9)
    ema.load_state_dict({"average": {"weight": torch.zeros(1)}})
    with pytest.raises(ValueError, match="do not fit"), ema.average(model):
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": 1.0}, r"decay must be in \[0, 1\) or None, got 1.0"),
        ({"decay": -0.1}, "got -0.1"),
        ({"start_step": -1}, "start_step must be at least 0, got -1"),
    ],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        GeneratorEMA(**settings)

import csv
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from tiny_gan import TinyGAN, TinyImages, assert_same_training, tiny_trainer
from torch import nn

from lightning_igm.callbacks.critic_spectrum import CriticSpectrum
from lightning_igm.networks import spectral_norm


class CriticGAN(TinyGAN):
    """Its critic's first layer comes closer to rank one with every generator step."""

    shrinkage = 1.0

    def __init__(self, critic_steps=0):
        super().__init__(critic_steps)
        torch.manual_seed(5)
        self.critic = nn.Sequential(
            nn.Flatten(), nn.Linear(48, 4), nn.LeakyReLU(0.2), nn.Linear(4, 1)
        )
        self.latest = {}

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        if (batch_idx + 1) % (self.critic_steps + 1) == 0:
            self.critic[1].weight.data[1:] *= self.shrinkage


class CollapsingGAN(CriticGAN):
    shrinkage = 0.1


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def logged(folder):
    return [row for row in read(folder / "metrics.csv") if row["critic_condition_number"]]


def fit(folder, model, *callbacks, **settings):
    torch.manual_seed(0)
    logger = CSVLogger(folder, name="", version="")
    trainer = tiny_trainer(folder, *callbacks, logger=logger, **settings)
    trainer.fit(model, datamodule=TinyImages())
    return trainer


def singular_values(layer):
    weight = layer.weight.detach().double().flatten(1).numpy()
    return np.linalg.svd(weight, compute_uv=False)


def test_logged_values_equal_numpys(tmp_path):
    model = CriticGAN()
    fit(tmp_path, model, CriticSpectrum(every_n_steps=3))
    first, second = logged(tmp_path)
    assert (first["step"], second["step"]) == ("3", "6")
    expected = singular_values(model.critic[1])
    for row in (first, second):
        largest, condition = (
            float(row[f"{name}/1"]) for name in ("largest_singular_value", "condition_number")
        )
        assert largest == pytest.approx(expected[0], rel=1e-6)
        assert condition == pytest.approx(expected[0] / expected[-1], rel=1e-6)
        assert float(row["critic_condition_number"]) == condition
        norm = model.critic[3].weight.norm().item()
        assert float(row["largest_singular_value/3"]) == pytest.approx(norm, rel=1e-6)
        assert float(row["condition_number/3"]) == 1.0


def test_the_complexity_is_that_of_the_training_images(tmp_path):
    model = CriticGAN()
    fit(tmp_path, model, CriticSpectrum(every_n_steps=6))
    [row] = logged(tmp_path)
    images = (TinyImages().images / 255).requires_grad_()
    [slopes] = torch.autograd.grad(model.critic(images).sum(), images)
    expected = 1 + 10 * slopes.flatten(1).square().sum(1).mean().item()
    assert float(row["critic_complexity"]) == pytest.approx(expected, rel=1e-5)


def test_the_complexity_is_not_that_of_the_first_images(tmp_path):
    """The first 64 of 256 are black: of data stored by class, they would be one class."""

    class Sorted(TinyImages):
        def __init__(self):
            super().__init__(256)
            self.images[:64] = 0

    model, spectrum = CriticGAN(), CriticSpectrum(every_n_steps=6)
    logger = CSVLogger(tmp_path, name="", version="")
    tiny_trainer(tmp_path, spectrum, logger=logger).fit(model, datamodule=Sorted())
    black = spectrum._images.flatten(1).sum(1) == 0
    assert 4 <= black.sum() <= 32  # 16 of 64 are expected.


def test_all_singular_values_are_written(tmp_path):
    model = CriticGAN()
    fit(tmp_path, model, CriticSpectrum(every_n_steps=4), max_steps=9)
    names = sorted(path.name for path in (tmp_path / "spectrum").iterdir())
    assert names == ["step_00000004.csv", "step_00000008.csv"]
    rows = read(tmp_path / "spectrum" / names[1])
    assert [row["layer"] for row in rows] == ["1"] * 4 + ["3"]
    expected = [*singular_values(model.critic[1]), *singular_values(model.critic[3])]
    found = [float(row["singular_value"]) for row in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_raw_weights_of_convolutions_are_measured(tmp_path):
    class SpectralGAN(CriticGAN):
        def __init__(self):
            super().__init__()
            self.critic = spectral_norm(nn.Sequential(nn.Identity(), nn.Conv2d(3, 2, 4)))

    model = SpectralGAN()
    fit(tmp_path, model, CriticSpectrum(every_n_steps=6))
    [row] = logged(tmp_path)
    raw = model.critic[1].parametrizations.weight.original.detach().double().flatten(1)
    assert raw.shape == (2, 48)
    values = np.linalg.svd(raw.numpy(), compute_uv=False)
    assert float(row["largest_singular_value/1"]) == pytest.approx(values[0], rel=1e-6)
    assert float(row["condition_number/1"]) == pytest.approx(values[0] / values[1], rel=1e-6)


def test_cadence_counts_generator_steps_once(tmp_path):
    # Epochs of 5 batches, every third one a generator step: 5 steps in 25 batches.
    fit(tmp_path, CriticGAN(2), CriticSpectrum(every_n_steps=2), max_steps=-1, max_epochs=5)
    assert [row["step"] for row in logged(tmp_path)] == ["2", "4"]


def test_training_does_not_notice(tmp_path):
    def trained(*callbacks):
        torch.manual_seed(0)
        model = CriticGAN()
        tiny_trainer(tmp_path, *callbacks).fit(model, datamodule=TinyImages())
        state = {key: value.clone() for key, value in model.state_dict().items()}
        return model, state, torch.rand(3)

    assert_same_training(trained(CriticSpectrum(every_n_steps=2)), trained())


def test_the_complexity_that_a_module_keeps_is_logged(tmp_path):
    class Complex(CriticGAN):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            self.latest["critic_complexity"] = torch.tensor(2.0 + self.global_step)

    fit(tmp_path, Complex(), CriticSpectrum(every_n_steps=3))
    assert [float(row["critic_complexity"]) for row in logged(tmp_path)] == [5.0, 8.0]


def test_a_collapse_is_warned_of_once(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, CollapsingGAN(), CriticSpectrum(every_n_steps=1))
    messages = [str(w.message) for w in caught if "losing rank" in str(w.message)]
    conditions = [float(row["condition_number/1"]) for row in logged(tmp_path)]
    start = conditions[0] / 10
    step = next(i for i, c in enumerate(conditions, start=1) if c > 1000)
    assert 1 < step < 6
    [message] = messages
    assert message.startswith("The critic's layer '1' is losing rank: its condition number is ")
    assert f" at generator step {step} and was " in message
    assert float(message.split(" and was ")[1].split(" ")[0]) == pytest.approx(start, rel=0.3)
    assert "spectral parametrization" in message


def test_a_layer_that_began_like_that_is_not_warned_of(tmp_path):
    model = CriticGAN()
    model.critic[1].weight.data[1:] *= 1e-5
    fit(tmp_path, model, CriticSpectrum(every_n_steps=1))
    assert float(logged(tmp_path)[-1]["condition_number/1"]) > 1e4


def test_the_threshold_is_an_argument(tmp_path):
    with pytest.warns(UserWarning, match="losing rank.* at generator step 2 "):
        fit(tmp_path, CollapsingGAN(), CriticSpectrum(1, max_condition_number=15), max_steps=2)


def test_a_resumed_run_keeps_the_start_and_warns_no_second_time(tmp_path):
    with pytest.warns(UserWarning, match="losing rank"):
        trainer = fit(tmp_path / "a", CollapsingGAN(), CriticSpectrum(1), max_steps=5)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)["callbacks"]["CriticSpectrum"]
    assert saved["warned"] == ["1"]
    resumed = CriticSpectrum(1)
    tiny_trainer(tmp_path, resumed, max_steps=7).fit(
        CollapsingGAN(), datamodule=TinyImages(), ckpt_path=tmp_path / "half.ckpt"
    )
    assert resumed.state_dict() == saved


def test_weights_that_are_not_finite_are_nan(tmp_path):
    model = CriticGAN()
    model.critic[3].weight.data[0, 0] = torch.nan
    fit(tmp_path, model, CriticSpectrum(every_n_steps=6))
    assert logged(tmp_path)[0]["condition_number/3"] == "nan"


def test_points_have_a_spectrum_without_complexity(tmp_path):
    class Points(TinyImages):
        value_range = None

    torch.manual_seed(0)
    logger = CSVLogger(tmp_path, name="", version="")
    trainer = tiny_trainer(tmp_path, CriticSpectrum(every_n_steps=6), logger=logger)
    trainer.fit(CriticGAN(), datamodule=Points())
    [row] = logged(tmp_path)
    assert "critic_complexity" not in row


@pytest.mark.parametrize("critic", [None, nn.Flatten()])
def test_a_module_without_a_critic_to_measure_is_refused(critic, tmp_path):
    model = CriticGAN()
    model.critic = critic
    with pytest.raises(ValueError, match=r"^CriticSpectrum: CriticGAN has no critic with Conv"):
        fit(tmp_path, model, CriticSpectrum())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"every_n_steps": 0},
            r"^CriticSpectrum.every_n_steps: 0 is not allowed; it must be 1 or more$",
        ),
        (
            {"max_condition_number": 1.0},
            r"^CriticSpectrum.max_condition_number: 1.0 is not allowed; it must be more than 1$",
        ),
        ({"max_condition_number": float("nan")}, "max_condition_number: nan is not allowed"),
    ],
)
def test_bad_arguments_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        CriticSpectrum(**settings)

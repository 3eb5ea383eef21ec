"""What methods with a critic share beyond the clock: cadence and clipped gradients."""

import pytest
import torch
from tiny_models import fit, tiny

from lightning_igm.modules import GAN, GRAMNet, MoLM
from lightning_igm.modules.rounds import CriticRounds


class DueGAN(GAN):
    """Answers for any generator step, without a trainer."""

    step = 0

    @property
    def global_step(self):
        return self.step


def test_bursts_are_long_rounds_at_the_start_and_now_and_then():
    model = tiny(DueGAN, critic_steps=5, critic_burst_steps=10)
    total, after = 0, {}
    for model.step in range(1000):
        total += model.critic_steps_due()
        after[model.step] = total
    assert (after[0], after[19], after[20], after[999]) == (10, 200, 205, 5_105)


def test_without_bursts_all_rounds_are_equal():
    model = tiny(DueGAN, critic_steps=3)
    for model.step in (0, 1, 500):
        assert model.critic_steps_due() == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critic_burst_steps": 0}, r"critic_burst_steps: 0 is not allowed"),
        ({"critic_burst_interval": 0}, r"critic_burst_interval: 0 is not allowed"),
        ({"critic_burst_start": -1}, r"critic_burst_start: -1 is not allowed"),
        ({"gradient_clip": 0.0}, r"gradient_clip: 0.0 is not allowed; it must be above 0"),
        ({"gradient_clip": float("nan")}, r"gradient_clip: nan is not allowed"),
    ],
)
def test_bad_values(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny(GAN, **settings)


@pytest.mark.parametrize("kind", [MoLM, GRAMNet])
def test_methods_without_rounds_have_no_bursts(kind):
    assert not issubclass(kind, CriticRounds)
    with pytest.raises(TypeError, match="critic_burst_steps"):
        tiny(kind, critic_burst_steps=10)


class Fixed(GAN):
    """Gradients (3, 4), (0.3, 0.4) and 0 in the generator's first three parameters, 0 elsewhere."""

    def generator_loss(self, real, fake):
        first, second, third, *_ = (p.flatten() for p in self.generator.parameters())
        return 3 * first[0] + 4 * first[1] + 0.3 * second[0] + 0.4 * second[1] + 0 * third.sum()


@pytest.mark.parametrize(("clip", "expected"), [(1.0, (0.6, 0.8)), (None, (3.0, 4.0))])
def test_each_tensors_gradient_is_clipped_by_itself(clip, expected):
    model = tiny(Fixed, critic_steps=0, gradient_clip=clip)
    before = [p.detach().clone() for p in model.generator.parameters()]
    fit(model, max_steps=1)
    steps = [
        (b - p.detach()).flatten() / 0.05
        for b, p in zip(before, model.generator.parameters(), strict=True)
    ]
    torch.testing.assert_close(steps[0][:2], torch.tensor(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(steps[1][:2], torch.tensor((0.3, 0.4)), rtol=1e-4, atol=1e-5)
    for step in steps[2:]:
        assert torch.equal(step, torch.zeros_like(step))

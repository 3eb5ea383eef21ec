"""Weights that lie channels last train to the same values, whatever steps them."""

from functools import partial

import pytest
import torch
from small_presets import PRESETS, two_steps
from tiny_models import fit, tiny, tiny_generator
from torch.optim import Adam

from lightning_igm.modules import GAN, GRAMNet, MMDNet, MoLM

# A larger eps: the gradient of a last bias may be nothing but rounding.
USUAL = partial(Adam, lr=1e-2, eps=1e-3)
FUSED = partial(USUAL, fused=True)


def lies_channels_last(parameter):
    return parameter.is_contiguous(memory_format=torch.channels_last)


def convolutions(model):
    shapes = [p for p in model.parameters() if p.dim() == 4]
    return [p for p in shapes if p.shape[1] > 1 and max(p.shape[2:]) > 1]


@pytest.mark.filterwarnings("ignore:The ratio has died")  # So small a network is no use.
@pytest.mark.parametrize("path", PRESETS)
def test_every_method_trains_to_the_same_weights(path):
    last, first = (two_steps(path, f"--model.channels_last={value}") for value in ("true", "false"))
    torch.testing.assert_close(last.state_dict(), first.state_dict(), rtol=1e-7, atol=1e-9)
    assert all(map(lies_channels_last, convolutions(last)))
    assert not any(map(lies_channels_last, convolutions(first)))


def game(kind, channels_last, optimizer=FUSED):
    settings = {"generator_optimizer": optimizer, "channels_last": channels_last}
    if kind is MMDNet:
        torch.manual_seed(0)
        return MMDNet(tiny_generator(), **settings)
    return tiny(kind, critic_optimizer=optimizer, **settings)


@pytest.mark.parametrize("kind", [GAN, MMDNet, MoLM, GRAMNet])
def test_a_fused_optimizer_steps_each_weight_by_its_own_gradient(kind):
    fused, usual = game(kind, True), game(kind, False, USUAL)
    for model in (fused, usual):
        fit(model, precision="64-true")
    assert all(map(lies_channels_last, convolutions(fused)))
    torch.testing.assert_close(fused.state_dict(), usual.state_dict(), rtol=1e-7, atol=1e-9)


class GradientsFromElsewhere(GAN):
    """Of the same values, channels first: so they come from a reduction over ranks."""

    def gradients_of(self, player, loss, *, retain_graph=False):
        gradients = super().gradients_of(player, loss, retain_graph=retain_graph)
        return [gradient.contiguous() for gradient in gradients]


def test_gradients_may_lie_otherwise():
    model, usual = game(GradientsFromElsewhere, True), game(GAN, False)
    for each in (model, usual):
        fit(each, precision="64-true")
    torch.testing.assert_close(model.state_dict(), usual.state_dict(), rtol=1e-7, atol=1e-9)

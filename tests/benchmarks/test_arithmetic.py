"""What share of the processor's peak arithmetic the updates reach, and how their cost grows.

The peak is that of a large product of matrices on the same thread, measured in turns with the
updates. Operations are counted where torch makes them: products and convolutions, in all backward
passes; what is elementwise counts as nothing and takes its time.
"""

import sys
from pathlib import Path

import pytest
import torch
from bare_loop import loop_over_noise
from timing import interleaved, median_ratio, report
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lightning_igm import MMDGAN, SMMDGAN, GRAMNet, MoLM
from lightning_igm.cli import main
from lightning_igm.distributed import mean_gradients
from lightning_igm.networks import DCGANCritic, DCGANGenerator

sys.path.insert(0, str(Path(__file__).parents[1] / "distributed"))
from two_ranks import started

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
CONFIGS = Path(__file__).parents[2] / "configs"
SIZE = 2048


class Operations(TorchDispatchMode):
    """Counts as torch's FlopCounterMode, whose hooks do not stand gradients within gradients."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if func.overloadpacket in flop_registry:
            self.count += flop_registry[func.overloadpacket](*args, **kwargs, out_val=made)
        return made


@pytest.mark.parametrize("folder", sorted(p.parent.name for p in CONFIGS.glob("*/cifar10.yaml")))
def test_share_of_peak(folder, record_property):
    model = main(["--config", str(CONFIGS / folder / "cifar10.yaml")], run=False).model
    loop = loop_over_noise(model, batch_size=8)
    with Operations() as operations:
        loop.both_updates()
    square = torch.rand(SIZE, SIZE)
    functions = {"update": loop.both_updates, "product": lambda: square @ square}
    rounds = interleaved(functions, rounds=2, processor_time=True)
    share = operations.count / (2 * SIZE**3)
    ratio = median_ratio(rounds, lambda seconds: share * seconds["product"] / seconds["update"])
    report(record_property, f"CIFAR-10, {folder}, batch 8: share of peak", ratio)


KINDS = {
    "MoLM": (MoLM, {}),
    "SMMDGAN": (SMMDGAN, {}),
    "GRAMNet": (GRAMNet, {"sigmas": [1.0, 3.0, 10.0]}),
}


def thin(name, batch_size, size=32, out_dim=1):
    """A method's loop over networks of 16 channels and more."""
    kind, settings = KINDS[name]
    generator = DCGANGenerator(latent_dim=16, image_size=size, width=16)
    critic = DCGANCritic(image_size=size, width=16, out_dim=16 if kind is GRAMNet else out_dim)
    return loop_over_noise(kind(generator, critic, **settings), batch_size, size)


def growth(record_property, what, loops):
    """The cost of updates over that of the first."""
    functions = {name: loop.both_updates for name, loop in loops.items()}
    rounds = interleaved(functions, rounds=5, processor_time=True)
    first, *others = loops
    for other in others:
        ratio = median_ratio(rounds, lambda seconds, name=other: seconds[name] / seconds[first])
        report(record_property, f"{what} {other} / {first}", ratio)


@pytest.mark.parametrize("name", KINDS)
def test_growth_with_the_batch(name, record_property):
    growth(record_property, f"{name}: batch", {n: thin(name, n) for n in (16, 32, 64)})


@pytest.mark.parametrize("name", KINDS)
def test_growth_with_resolution(name, record_property):
    growth(record_property, f"{name}: pixels", {n: thin(name, 16, size=n) for n in (32, 64)})


def test_growth_with_critic_outputs(record_property):
    loops = {d: thin("SMMDGAN", 16, out_dim=d) for d in (1, 4, 16)}
    growth(record_property, "SMMDGAN: outputs", loops)


def rank_seconds(batch_size):
    """Processor seconds of a critic update of an MMD GAN on this rank's share of a batch."""
    torch.manual_seed(0)
    generator = DCGANGenerator(latent_dim=16, width=8)
    model = MMDGAN(generator, DCGANCritic(width=16, out_dim=16))
    real, fake = torch.rand(2, batch_size, 3, 32, 32)
    parameters = list(model.critic.parameters())

    def update():
        mean_gradients(torch.autograd.grad(model.critic_loss(real, fake), parameters))

    [seconds] = interleaved({"update": update}, rounds=1, processor_time=True)
    return seconds["update"]


def test_growth_with_ranks(record_property):
    batch_size = 256
    ranks = started(2)
    rounds = [
        {"one": rank_seconds(batch_size), "two": max(ranks.run(rank_seconds, batch_size // 2))}
        for _ in range(3)
    ]
    ratio = median_ratio(rounds, lambda seconds: seconds["two"] / seconds["one"])
    name = f"MMDGAN, batch {batch_size}: each of 2 ranks / 1 rank"
    report(record_property, name, ratio, at_most=0.75)

"""Speed and memory of MoLM's updates, as ratios to a GAN's with the same networks.

What arithmetic allows, in forward passes of one batch through the critic (a backward pass is one
more for the inputs and one more for the weights):

- A GAN's critic update is 6: forward and backward of the real and of the fake images.
- MoLM's is 6 + 1 + 2 + 3 n: deltas are one pass of gradients in inputs, differentiating them costs
  two (in deltas and in weights), and n is what the norms' products cost, three times with their
  gradients. Multiply-adds of an image (layer: forward, norms; norms by gradient T p d, or by Gram
  matrices of at most M^2 c / stride^2 + T^2 d):

      Color MNIST   1:  1.2 M, 1.2 M     2: 13.1 M, 3.1 M   3: 13.1 M, 0.7 M    linear: 0.5 M, 0
                    forward 27.9 M, norms 5.0 M: n = 0.18, floor (9 + 0.5) / 6 = 1.6
      CIFAR-10      1:  4.7 M, 4.7 M     2: 151.0 M, 151.0 M   3: 37.7 M, 37.7 M
                    4: 75.5 M, 25.1 M    5: 151.0 M, 37.6 M    6: 37.7 M, 5.8 M
                    7: 29.5 M, 1.0 M     8: 9.4 M, 0.2 M       9: 0.6 M, 0
                    forward 497.1 M, norms 263.1 M: n = 0.53, floor (9 + 1.6) / 6 = 1.8

- The way by vmap(grad) takes 10 (Color MNIST) and 4.4 (CIFAR-10) GAN critic updates (measured
  on two cores), so that at MoLM's floors it would be 6.2 and 2.4 times as slow as MoLM's; measured
  are 4.5 to 5.5 and 2.1 to 2.7. The limits below leave room for the noise of single calls.

- A GAN's iteration is 8 (the generator's update needs a forward pass and gradients in inputs) and
  4 passes of the generator. MoLM's generator update is 5 and 3: moments are 3, and differentiating
  them in the images is 2, since the deltas of a critic of leaky ReLUs are constants. The data pass
  is 3 N / (2000 B), a critic update a twentieth of the above. With a generator's pass of 0.8 (Color
  MNIST) and 0.14 (CIFAR-10) of the critic's, floors are (5 + 2.5 + 0.5 + 0.5) / (8 + 3.3) = 0.8 and
  (5 + 0.4 + 0.5 + 2.3) / (8 + 0.6) = 1.0.
"""

import sys

import pytest
from timing import interleaved, median_ratio, peak_memory, report
from updates import make_updates

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("data", "limit"), [("color_mnist", 2.5), ("cifar10", 3.5)])
def test_critic_update_costs_a_few_of_a_gans(data, limit, record_property):
    updates = make_updates(data)
    rounds = interleaved({"gan": updates.gan_critic, "molm": updates.molm_critic}, rounds=3)
    ratio = median_ratio(rounds, lambda seconds: seconds["molm"] / seconds["gan"])
    report(record_property, f"{data}: MoLM / GAN critic update", ratio, at_most=limit)


@pytest.mark.parametrize(("data", "limit"), [("color_mnist", 4.0), ("cifar10", 2.0)])
def test_squared_norms_are_faster_than_every_images_gradient(data, limit, record_property):
    updates = make_updates(data)
    functions = {"vmap": updates.vmap_critic, "molm": updates.molm_critic}
    rounds = interleaved(functions, rounds=1)
    ratio = median_ratio(rounds, lambda seconds: seconds["vmap"] / seconds["molm"])
    report(record_property, f"{data}: vmap / MoLM critic update", ratio, at_least=limit)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("data", ["color_mnist", "cifar10"])
def test_squared_norms_take_half_the_memory_of_every_images_gradient(data, record_property):
    molm, by_vmap = (peak_memory("updates", data, u) for u in ("molm_critic", "vmap_critic"))
    report(
        record_property, f"{data}: MoLM / vmap critic update, memory", molm / by_vmap, at_most=0.5
    )


@pytest.mark.parametrize(("data", "images"), [("color_mnist", 60_000), ("cifar10", 50_000)])
def test_iteration_costs_little_more_than_a_gans(data, images, record_property):
    updates = make_updates(data)
    names = ["gan_critic", "gan_generator", "molm_critic", "molm_generator", "data_batch"]
    rounds = interleaved({name: getattr(updates, name) for name in names}, rounds=3)
    batches = -(-images // len(updates.real))

    def ratio(seconds):
        phase = 100 * seconds["molm_critic"] + batches * seconds["data_batch"]
        molm = seconds["molm_generator"] + phase / 2000
        return molm / (seconds["gan_critic"] + seconds["gan_generator"])

    name = f"{data}: MoLM / GAN iteration"
    report(record_property, name, median_ratio(rounds, ratio), at_most=1.35)

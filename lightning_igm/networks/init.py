"""Weight initialisation shared by every network."""

import math
from collections.abc import Callable
from typing import Literal

from torch import nn

from lightning_igm.networks._checks import check_choice
from lightning_igm.networks.spectral import raw_weight

__all__ = ["InitName", "SMMDInitName", "initialize_smmd_weights", "initialize_weights"]

InitName = Literal["normal", "he", "default"]
SMMDInitName = Literal["smmd", "normal", "he", "default"]

Layer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


def initialize_weights(network: nn.Module, init: InitName, negative_slope: float = 0.0) -> None:
    """Initialise all linear, convolution and batch-norm layers of a network in place.

    * ``"normal"``: weights from N(0, 0.02), as in DCGAN (Radford, Metz, Chintala, 2015,
      https://arxiv.org/abs/1511.06434).
    * ``"he"``: weights from N(0, 2 / ((1 + negative_slope^2) fan_in)) (He et al., 2015,
      https://arxiv.org/abs/1502.01852). ``fan_in`` is the number of inputs that reach one output;
      in a transposed convolution, their average over the output positions.
    * ``"default"``: PyTorch's own initialisation, left as it is.

    With ``"normal"`` and ``"he"`` biases are 0, batch-norm scales 1 and batch-norm offsets 0.
    Weights are drawn from the global random number generator.

    Args:
        network: The network to initialise.
        init: Name of the scheme.
        negative_slope: Slope of the network's leaky ReLUs (0 for ReLU); used by ``"he"`` only.

    Raises:
        ValueError: If ``init`` is not one of the three names.

    Example:
        >>> from torch import nn
        >>> layer = nn.Linear(100, 100)
        >>> initialize_weights(layer, "normal")
        >>> bool(layer.bias.eq(0).all())
        True
    """
    check_choice("init", init, InitName)
    if init == "default":
        return

    def draw(layer: Layer) -> None:
        std = 0.02 if init == "normal" else _he_std(layer, negative_slope)
        nn.init.normal_(raw_weight(layer), 0.0, std)

    _initialize(network, draw)


def initialize_smmd_weights(
    network: nn.Module,
    init: SMMDInitName = "smmd",
    negative_slope: float = 0.0,
    linear_std: float = 0.01,
    glorot_in: type[nn.Module] | None = None,
) -> None:
    """Initialise a network of the Scaled MMD GAN in place.

    ``"smmd"`` is what the code of "On gradient regularizers for MMD GANs" (Arbel, Sutherland,
    Bińkowski and Gretton, 2018, https://arxiv.org/abs/1805.11565) does:

    * convolutions: N(0, 0.02), cut at two standard deviations;
    * transposed convolutions: N(0, 0.02);
    * linear layers: N(0, ``linear_std``);
    * convolutions inside a ``glorot_in``: U[-a, a] with a^2 = 6 / (fan_in + fan_out) ("Glorot");
    * biases and batch-norm offsets 0, batch-norm scales 1.

    Other names are those of :func:`initialize_weights`. Weights are drawn from the global random
    number generator.

    Args:
        network: The network to initialise.
        init: Name of the scheme.
        negative_slope: Slope of the network's leaky ReLUs (0 for ReLU); used by ``"he"`` only.
        linear_std: Standard deviation of linear layers.
        glorot_in: Kind of block whose convolutions have their own scheme.

    Raises:
        ValueError: If ``init`` is not one of the names.

    Example:
        >>> from torch import nn
        >>> layer = nn.Conv2d(8, 8, 3)
        >>> initialize_smmd_weights(layer)
        >>> bool(layer.weight.abs().max() <= 0.04)
        True
    """
    check_choice("init", init, SMMDInitName)
    if init != "smmd":
        initialize_weights(network, init, negative_slope)
        return
    blocks = [block for block in network.modules() if glorot_in and isinstance(block, glorot_in)]
    inside = {module for block in blocks for module in block.modules()}

    def draw(layer: Layer) -> None:
        weight = raw_weight(layer)
        if layer in inside:
            nn.init.xavier_uniform_(weight)
        elif isinstance(layer, nn.Conv2d):
            nn.init.trunc_normal_(weight, 0.0, 0.02, -0.04, 0.04)
        else:
            std = linear_std if isinstance(layer, nn.Linear) else 0.02
            nn.init.normal_(weight, 0.0, std)

    _initialize(network, draw)


def _initialize(network: nn.Module, draw: Callable[[Layer], None]) -> None:
    """Draw all weights; the rest is what a scheme of random weights leaves alone."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            draw(module)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def _he_std(module: Layer, negative_slope: float) -> float:
    if isinstance(module, nn.ConvTranspose2d):
        # torch's own fan_in counts the outputs here: the weight is stored (in, out, h, w).
        inputs = module.in_channels // module.groups * math.prod(module.kernel_size)
        fan_in = inputs / math.prod(module.stride)
    else:
        fan_in = module.weight[0].numel()
    return math.sqrt(2 / ((1 + negative_slope**2) * fan_in))

"""Weight initialisation shared by every network."""

import math
from typing import Literal

from torch import nn

from lightning_igm.networks._checks import check_choice

__all__ = ["InitName", "initialize_weights"]

InitName = Literal["normal", "he", "default"]


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
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            std = 0.02 if init == "normal" else _he_std(module, negative_slope)
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def _he_std(module: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, negative_slope: float) -> float:
    if isinstance(module, nn.ConvTranspose2d):
        # torch's own fan_in counts the outputs here: the weight is stored (in, out, h, w).
        inputs = module.in_channels // module.groups * math.prod(module.kernel_size)
        fan_in = inputs / math.prod(module.stride)
    else:
        fan_in = module.weight[0].numel()
    return math.sqrt(2 / ((1 + negative_slope**2) * fan_in))

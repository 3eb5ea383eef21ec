"""How tensors lie in memory: fused optimizers read them in order and look at no strides."""

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["laid_out_like", "lay_out_state"]


def laid_out_like(reference: Tensor, tensor: Tensor) -> Tensor:
    """The tensor's values in the memory order of a reference of the same shape."""
    if tensor.stride() == reference.stride():
        return tensor
    return torch.empty_like(reference, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def lay_out_state(optimizer: Optimizer) -> None:
    """Lay out what an optimizer keeps of each parameter like the parameter.

    What comes from a checkpoint lies as it was saved, perhaps in another memory format.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = laid_out_like(parameter, value)

"""Batch norm over the batch of all ranks together."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_igm.distributed import all_mean, world_size

__all__ = ["BatchShift", "global_batch_norm", "synchronise_batch_norms"]


def synchronise_batch_norms(network: nn.Module) -> None:
    """Let every batch norm of a network take its statistics from the batch of all ranks.

    Nothing changes in a run of one process, in eval mode, or in ``state_dict``. Unlike
    :class:`torch.nn.SyncBatchNorm` it runs on CPUs too, and can be differentiated any number of
    times.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        >>> synchronise_batch_norms(network)
        >>> network(torch.ones(4, 2)).shape
        torch.Size([4, 3])
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, _OverRanks | nn.SyncBatchNorm):
            module.__class__ = type(type(module).__name__, (_OverRanks, type(module)), {})


class _OverRanks(_BatchNorm):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        # In evaluation ranks may be on their own: one without running statistics takes its batch's.
        if world_size() == 1 or not self.training:
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        output, mean, var = global_batch_norm(input, self.weight, self.bias, self.eps)
        if self.running_mean is not None:
            count = cast(Tensor, self.num_batches_tracked).add_(1)
            momentum = 1 / float(count) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean), momentum)
            cast(Tensor, self.running_var).lerp_(var.to(self.running_mean), momentum)
        return output


def global_batch_norm(
    maps: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise the channels of maps by their mean and variance over all ranks.

    Args:
        maps: ``(N, C, ...)``, as many on each rank.
        weight: ``(C,)``, or None for ones.
        bias: ``(C,)``, or None for zeros.
        eps: Added to the variance.

    Returns:
        Maps like those given; mean ``(C,)`` and unbiased variance ``(C,)``, without gradient.
    """
    axes = (0, *range(2, maps.dim()))
    shape = (1, -1, *[1] * (maps.dim() - 2))
    wide = maps if maps.dtype == torch.float64 else maps.float()
    mean = all_mean(wide.mean(axes))
    centred = wide - mean.view(shape)
    var = all_mean(centred.square().mean(axes))
    scale = (var + eps).rsqrt() if weight is None else (var + eps).rsqrt() * weight
    output = centred * scale.view(shape)
    if bias is not None:
        output = output + bias.view(shape)
    count = world_size() * maps.numel() // maps.shape[1]
    return output.to(maps.dtype), mean.detach(), var.detach() * (count / (count - 1))


class BatchShift(nn.Module):
    """Batch norm with an offset and no scale, on the statistics of the batch at hand, always.

    What TensorFlow's ``batch_norm`` without a scale does where nobody switches it to evaluation;
    its epsilon is 1e-3. An image depends on its batch, in samples too.

    Args:
        channels: Channels of the maps.
    """

    couples_images = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise maps ``(N, C, H, W)``; in training over all ranks."""
        if self.training and world_size() > 1:
            return global_batch_norm(maps, None, self.bias, eps=1e-3)[0]
        return F.batch_norm(maps, None, None, None, self.bias, training=True, eps=1e-3)

"""The golden net, and moments the slow way: one gradient per image."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap


class GoldenCritic(nn.Module):
    """Two inputs, two hidden units; its moments are short enough to work out by hand."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(2, 2)
        self.output = nn.Linear(2, 1)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.tensor([[1.0, -1.0], [2.0, 0.0]]))
            self.hidden.bias.copy_(torch.tensor([0.0, -1.0]))
            self.output.weight.copy_(torch.tensor([[1.0, -2.0]]))
            self.output.bias.copy_(torch.tensor([0.5]))
        self.double()

    def forward(self, images):
        return self.output(F.leaky_relu(self.hidden(images), 0.2)).squeeze(1)


GOLDEN_REAL = torch.tensor([[1.0, 2.0], [3.0, 1.0]], dtype=torch.float64)
GOLDEN_FAKE = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)


def per_image_moments(critic, images, parameters=None):
    """``(N, k)``: the gradient of every image's logit, each by a backward pass of its own."""
    parameters = dict(critic.named_parameters()) if parameters is None else parameters

    def logit(parameters, image):
        return functional_call(critic, parameters, (image[None],)).squeeze()

    gradients = vmap(grad(logit), (None, 0))(parameters, images)
    return torch.cat([g.flatten(1) for g in gradients.values()], dim=1)


def randomized(critic, seed=0):
    """Float64, with no parameter at a special value such as zero."""
    generator = torch.Generator().manual_seed(seed)
    critic.double()
    with torch.no_grad():
        for parameter in critic.parameters():
            # Small enough that deep critics keep logits of order one.
            scale = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3
            parameter.normal_(0, scale, generator=generator)
    return critic


def noise(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def relative_error(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()

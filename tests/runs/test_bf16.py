"""Every method trains in bf16-mixed: networks in bfloat16, what follows them in float32."""

import pytest
import torch
from killed_runs import PRESETS, arguments
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_igm.cli import main

# What kernels, solves, norms, penalties and losses are made of, and networks are not.
EXACT = ("exp", "log", "sqrt", "rsqrt", "pow", "square", "softplus", "norm", "solve", "cholesky")


class Watch(TorchDispatchMode):
    """Keeps the names of operations on bfloat16."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
        if any(tensor.dtype == torch.bfloat16 for tensor in tensors):
            self.seen.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:The ratio has died")  # So small a network is no use.
@pytest.mark.parametrize("preset", PRESETS)
def test_trains_with_exact_losses(preset, tmp_path):
    words = arguments(preset, tmp_path)
    words += [
        "--trainer.precision=bf16-mixed",
        "--trainer.max_steps=3",
        "--metrics.every_n_steps=null",
    ]
    with Watch() as watch:
        cli = main(words)
    assert watch.seen & {"convolution", "addmm", "mm"}
    seen = {name for name in watch.seen if "batch_norm" not in name}  # Inside it is exact.
    assert not {name for name in seen if set(EXACT) & set(name.split("_"))}
    assert cli.trainer.global_step == 3
    assert all(value.dtype != torch.bfloat16 for value in cli.model.latest.values())
    state = cli.model.state_dict().values()
    assert all(value.dtype != torch.bfloat16 and value.isfinite().all() for value in state)

"""Random state that measuring may use without training noticing."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated_rng(seed: int | None = None) -> Iterator[None]:
    """Restore the global random states of Python, NumPy and torch on exit, whatever happens inside.

    Lightning's ``isolate_rng`` leaves the states moved when its body raises; this one does not.

    Args:
        seed: Seed the states with this number on entry; None leaves them where they are.

    Example:
        >>> import torch
        >>> with isolated_rng(seed=0):
        ...     inside = torch.rand(1)
        >>> with isolated_rng(seed=0):
        ...     bool(torch.rand(1) == inside)
        True
    """
    python_state = random.getstate()
    # The legacy global NumPy state is the one that data sets and libraries draw from.
    numpy_state = np.random.get_state()  # noqa: NPY002
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices, device_type="cuda"):
        try:
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed)  # noqa: NPY002
                torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002

"""Samples that golden values are known for: fakes X ``(6, 3)``, reals Y ``(4, 3)``."""

import torch


def grid(rows, columns, formula):
    """A formula of the index, row by row."""
    return formula(torch.arange(rows * columns, dtype=torch.float64)).view(rows, columns)


X = grid(6, 3, lambda t: torch.sin(1 + t + t**2 / 7))
Y = grid(4, 3, lambda t: 0.5 + torch.cos(0.7 * t + t**2 / 9))


def rows(text):
    """A matrix printed as ``a b; c d``, in float64."""
    values = [[float(word) for word in row.split()] for row in text.split(";")]
    return torch.tensor(values, dtype=torch.float64)

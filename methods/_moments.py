"""Mean and deviation of what is seen a part at a time."""

from __future__ import annotations

import torch
from torch import Tensor

Moments = tuple[int, Tensor, Tensor]
"""Count, standard deviation and mean ``(D,)``."""


def moments(values: Tensor) -> Moments:
    """Return the moments of the rows of values ``(N, D)``; those of none are NaN."""
    if not len(values):
        nothing = values.new_full(values.shape[1:], torch.nan)
        return 0, nothing, nothing
    std, mean = torch.std_mean(values, dim=0, correction=0)
    return len(values), std, mean


def pooled(a: Moments, b: Moments) -> Moments:
    """Return the moments of two samples together (Chan, Golub & LeVeque 1983)."""
    (n, std_a, mean_a), (m, std_b, mean_b) = a, b
    if not (n and m):  # those of no sample are no numbers
        return a if n else b
    share = m / (n + m)
    between = share * (1 - share) * (mean_b - mean_a).square()
    variance = (1 - share) * std_a.square() + share * std_b.square() + between
    return n + m, variance.sqrt(), mean_a + share * (mean_b - mean_a)

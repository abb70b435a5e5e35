"""Mean and deviation of what is seen a part at a time."""

from __future__ import annotations

import torch
from torch import Tensor

Moments = tuple[int, Tensor, Tensor]
"""Count, standard deviation and mean ``(D,)``."""


def moments(values: Tensor, counts: Tensor | None = None) -> Moments:
    """Return the moments of the rows of values ``(N, D)``; those of none are NaN.

    Args:
        values: the rows.
        counts: ``(N,)`` int64, how often each row is there; once where None.
    """
    total = len(values) if counts is None else int(counts.sum())
    if not total:
        nothing = values.new_full(values.shape[1:], torch.nan)
        return 0, nothing, nothing
    if counts is not None:
        share = (counts.to(values.dtype) / total)[:, None]
        mean = (share * values).sum(0)
        return total, (share * (values - mean).square()).sum(0).sqrt(), mean
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

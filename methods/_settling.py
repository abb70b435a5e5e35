"""Whether an optimiser came to rest, as methods say it of themselves: what an answer is worth where it did not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

CHECKS, REST = 12, 0.05
"""Part by which what is retained may fall over the last so many checks of a fit at rest."""

LATE = 0.1
"""Part of all progress that a fit at rest may make in its last quarter; one that goes on steadily makes 0.25."""

NEARLY_ALL = 0.8
"""Share of messages beyond which a mask is noted: either the model needs them, or the optimiser found no better."""


def fall(course: Sequence[float], checks: int) -> float:
    """Return the part of a value by which it fell over the last so many checks, or over all where there are fewer."""
    before = course[-1 - min(checks, len(course) - 1)]
    return (before - course[-1]) / abs(before) if before else 0.0


def late_part(course: Tensor) -> float:
    """Return which part of its whole fall a value ``(C,)`` fell in the last quarter of its course; 0 where it rose.

    NaN where a value is not finite.
    """
    if not bool(torch.isfinite(course).all()):
        return math.nan
    total = float(course[0] - course[-1])
    late = float(course[-1 - max(1, len(course) // 4)] - course[-1]) if len(course) > 1 else 0.0
    return max(0.0, late) / total if total > 0 else 0.0


class Course:
    """What is minimised over the steps, summed over all graphs: these come in parts, whose ends say nothing."""

    def __init__(self) -> None:
        self.values = torch.zeros(())

    def add(self, values: Sequence[Tensor]) -> None:
        """Add the values of a part at its steps, or checks."""
        if values:
            self.values = self.values + torch.stack(list(values)).double().cpu()

    @property
    def unsettled(self) -> bool:
        """Whether it still fell at the end; so it does where there was hardly a step, or a value was no number."""
        return self.values.numel() < 2 or not late_part(self.values) <= LATE


def at_rest(noisy: Tensor, parts: int = 8) -> bool:
    """Return whether a value that is measured with noise in every step ``(S,)`` fell, and hardly falls any more.

    Args:
        noisy: the values.
        parts: how many means of consecutive steps are compared; from fewer steps nothing can be told.
    """
    if len(noisy) < 2 * parts:
        return False
    groups = noisy.double().tensor_split(parts)
    course = torch.stack([group.mean() for group in groups])
    error = torch.stack([group.var() / len(group) for group in (groups[0], groups[-1])]).sum().sqrt()
    return bool(course[0] - course[-1] > 2 * error) and late_part(course) <= LATE

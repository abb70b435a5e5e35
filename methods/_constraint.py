"""When a mask is faithful enough: D* within the tolerance beta of Eq. 5, and the model's own predictions kept.

D* alone means different things to different outputs: 0.03 nats for each of twenty tokens are enough to change one of
their labels in one sentence of five. So both are asked for. No label is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE, MAX_CHANGED = 0.03, 0.0375
"""Defaults of the methods that ask for this constraint. Chosen on development seeds, from 1000 up."""

CERTAIN = 1.0
"""Nats of D* beyond which a graph counts no more in the standard error.

D* has a heavy tail: one graph of 1,500 where a sure model changes its mind, at 15 nats, is an error of 0.01 by itself.
"""


@dataclass(frozen=True)
class Verdict:
    """What a mask does to a sample of graphs.

    Args:
        divergence: mean D* in nats, of a graph's mean over its units of output.
        changed: share of predictions that change, see ``Output.changes``.
        strain: the larger of both, with their standard errors, in parts of what is allowed: at most 1 is feasible.
    """

    divergence: float
    changed: float
    strain: float

    @property
    def feasible(self) -> bool:
        """Whether the mask is faithful enough."""
        return self.strain <= 1


@dataclass(frozen=True)
class Constraint:
    """What is allowed.

    Args:
        tolerance: beta of Eq. 5, nats of D*.
        max_changed: share of predictions that may change.
        margin: standard errors of both that must be within it as well: of many masks that are tried, the sparsest is
            one that was lucky.
    """

    tolerance: float
    max_changed: float
    margin: float = 0.0

    def met(self, divergence: Tensor, changed: Tensor, predictions: Tensor) -> Tensor:
        """Return ``(G,)`` bool for graphs each by itself, from D* ``(G,)`` and ``Output.changes``, ``(G,)`` each."""
        return (divergence <= self.tolerance) & (changed <= self.max_changed * predictions)

    def judge(self, divergence: Tensor, changed: Tensor, predictions: Tensor) -> Verdict:
        """Judge graphs together, from D* ``(G,)`` and ``Output.changes``, ``(G,)`` each."""
        mean = float(divergence.mean())
        error = float(divergence.clamp(max=CERTAIN).std(correction=0)) / len(divergence) ** 0.5
        count = max(1, int(predictions.sum()))
        share = int(changed.sum()) / count
        uncertain = (share * (1 - share) / count) ** 0.5
        strains = (
            _ratio(mean + self.margin * error, self.tolerance),
            _ratio(min(1.0, share + self.margin * uncertain), self.max_changed),  # no more than all of them change
        )
        return Verdict(mean, share, max(strains))


def _ratio(value: float, most: float) -> float:
    """Return value / most; 0 / 0 is within what is allowed."""
    if most > 0:
        return value / most
    return 0.0 if value <= 0 else torch.inf

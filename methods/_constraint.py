"""When a mask is faithful enough: D* within the tolerance beta of Eq. 5, and the model's own predictions kept.

D* alone means different things to different outputs: 0.03 nats for each of twenty tokens are enough to change one of
their labels in one sentence of five. So both are asked for. No label is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

TOLERANCE, MAX_CHANGED = 0.03, 0.0375
"""Defaults of the methods that ask for this constraint. Chosen on development seeds, from 1000 up."""

CERTAIN = 1.0
"""Nats of D* beyond which a graph counts no more in the standard error.

D* has a heavy tail: one graph of 1,500 where a sure model changes its mind, at 15 nats, is an error of 0.01 by itself.
"""


Sample: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Of G graphs D* ``(G,)``, and ``Output.changes``, ``(G,)`` each: predictions that change, and all that there are."""


@dataclass(frozen=True)
class Verdict:
    """What a mask does to graphs.

    Args:
        divergence: mean D* in nats, of a graph's mean over its units of output.
        changed: share of predictions that change, see ``Output.changes``.
        strain: the larger of both, with their standard errors, in parts of what is allowed: at most 1 is feasible.
        alone: the number of the sample that rules the constraint out by itself, of which D* and share are then told;
            None where there is none.
    """

    divergence: float
    changed: float
    strain: float
    alone: int | None = None

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

    def judge(self, *samples: Sample) -> Verdict:
        """Judge the graphs of all samples together; and no sample may rule the constraint out by itself.

        A small sample that is unlike the others would be outvoted: it is enough that what it shows, less the margin, is
        more than what is allowed.
        """
        divergence, changed, predictions = (torch.cat(column) for column in zip(*samples, strict=True))
        whole = _Figures.of((divergence, changed, predictions))
        together = max(
            _ratio(whole.divergence + self.margin * whole.error, self.tolerance),
            _ratio(min(1.0, whole.changed + self.margin * whole.spread(whole.changed)), self.max_changed),
        )  # no more than all of them change
        own = [_Figures.of(sample) for sample in samples]
        strains = [
            max(
                _ratio(one.divergence - self.margin * one.error, self.tolerance),
                _ratio(one.changed - self.margin * one.spread(self.max_changed), self.max_changed),
            )
            for one in own
        ]
        worst = max(range(len(own)), key=strains.__getitem__)
        if strains[worst] > max(1.0, together):
            return Verdict(own[worst].divergence, own[worst].changed, strains[worst], worst)
        return Verdict(whole.divergence, whole.changed, together)


@dataclass(frozen=True)
class _Figures:
    """Mean D* of a sample with its standard error, and the share of its predictions that change, and their number."""

    divergence: float
    error: float
    changed: float
    count: int

    @staticmethod
    def of(sample: Sample) -> _Figures:
        divergence, changed, predictions = sample
        graphs, count = max(1, len(divergence)), max(1, int(predictions.sum()))
        error = float(divergence.clamp(max=CERTAIN).std(correction=0)) / graphs**0.5
        return _Figures(float(divergence.mean()), error, int(changed.sum()) / count, count)

    def spread(self, share: float) -> float:
        """Return the standard error of a share of so many predictions."""
        return math.sqrt(share * (1 - share) / self.count)


def _ratio(value: float, most: float) -> float:
    """Return value / most; 0 / 0 is within what is allowed."""
    if most > 0:
        return value / most
    return 0.0 if value <= 0 else torch.inf

"""Which messages count as retained: a soft method's threshold, chosen on validation graphs by the harness.

Scores are normalised (see :func:`.normalise`) and a message is retained where its score is above the
threshold. Every threshold that can make a difference on the validation graphs is a candidate: the midpoints between
adjacent distinct scores, keep-all and keep-none. So no grid of the harness's decides what a method can reach.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..plugins.masks import THRESHOLDS, threshold
from .gold import against_gold, micro

KEEP_ALL, KEEP_NONE = -1.0, 1.0
"""Thresholds at the ends of the range: normalised scores are in [0, 1]."""

SHARES_TRIED = tuple(float(share) for share in torch.logspace(-2.25, 0, 24, dtype=torch.float64))
"""Retained shares at which a metric that need not be monotone is tried, from the sparsest: 0.6% to everything."""

BISECTIONS = 6
"""Further passes between the first of these that will do and the one before it."""


@dataclass(frozen=True)
class Choice:
    """A threshold and what is known of it.

    Args:
        threshold: messages with a normalised score above it are retained.
        source: by what it was chosen.
        at_end: whether it keeps everything or nothing: no threshold in between did better.
        f1: on the validation graphs; None without gold.
    """

    threshold: float
    source: str
    at_end: bool
    f1: float | None = None


@dataclass(frozen=True, eq=False)
class Decision:
    """The mask of one row that is scored, and how it came about; made once per row.

    Args:
        mask: ``(L, E)`` bool, of the test graphs.
        source: who or what decided it.
        choice: the threshold, None where the method decided itself or the row is a control.
        paper_grid: ``(L, E)`` bool, the mask that the best threshold of the paper's grid gives.
    """

    mask: Tensor
    source: str
    choice: Choice | None = None
    paper_grid: Tensor | None = None


@dataclass(frozen=True, eq=False)
class _Cuts:
    """The places at which scores, the largest first, can be cut in two.

    Args:
        counts: ``(C,)`` int64, how many messages are retained, ascending.
        thresholds: ``(C,)`` float64.
        gaps: ``(C,)`` float64, the distance between the scores on both sides; -1 at the ends.
    """

    counts: Tensor
    thresholds: Tensor
    gaps: Tensor


def _cuts(ordered: Tensor) -> _Cuts:
    """Return the cuts of scores ``(M,)`` in descending order: keep-none, between distinct scores, keep-all."""
    inner = (ordered[1:] < ordered[:-1]).nonzero()[:, 0] + 1
    above, below = ordered[inner - 1], ordered[inner]
    middle = (above + below) / 2  # in the scores' own precision, in which they will be compared
    middle = torch.where(middle < above, middle, below).double()
    ends = torch.tensor([0, len(ordered)], device=ordered.device)

    def between(first: float, inside: Tensor, last: float) -> Tensor:
        return torch.cat([inside.new_tensor([first]), inside, inside.new_tensor([last])])

    return _Cuts(
        torch.cat([ends[:1], inner, ends[1:]]),
        between(KEEP_NONE, middle, KEEP_ALL),
        between(-1, (above - below).double(), -1),
    )


def choose_by_f1(values: Tensor, gold: Tensor) -> Choice:
    """Choose the threshold with the best micro F1; among equal ones the middle of the widest gap, then the sparsest.

    Args:
        values: ``(L, E)`` normalised scores.
        gold: ``(L, E)`` bool, or ``(1, E)`` where only the union over layers is known.
    """
    values, _ = against_gold(values, values > 0, gold)
    ordered, order = values.flatten().sort(descending=True)
    cuts = _cuts(ordered)
    found = gold.flatten()[order].long().cumsum(0)
    true_positive = torch.cat([found.new_zeros(1), found])[cuts.counts]
    size = cuts.counts + int(gold.sum())
    f1 = torch.where(size > 0, 2 * true_positive.double() / size.clamp(min=1), 1.0)
    best = torch.where(f1 == f1.max(), cuts.gaps, -torch.inf).argmax()
    at_end = bool(cuts.gaps[best] < 0)
    return Choice(float(cuts.thresholds[best]), "validation F1", at_end, float(f1[best]))


def choose_by_metric(values: Tensor, keeps: Callable[[float], bool]) -> Choice:
    """Choose the sparsest threshold found whose mask ``keeps`` the metric, in at most 30 masked passes.

    What a metric does with the threshold need not be monotone: shares of retained messages are tried from the sparsest
    up, and the place between the first that will do and the one before it is narrowed down by bisection.

    Args:
        values: ``(L, E)`` normalised scores of the validation graphs.
        keeps: whether the mask of a threshold keeps the task's metric within :data:`.METRIC_FALL`.
    """
    ordered = values.flatten().sort(descending=True).values
    cuts = _cuts(ordered)
    wanted = (torch.tensor(SHARES_TRIED, dtype=torch.float64) * len(ordered)).round().long().to(ordered.device)
    tried = torch.searchsorted(cuts.counts, wanted).clamp(max=len(cuts.counts) - 1).unique().tolist()
    failed, good = -1, len(cuts.counts) - 1  # keep-all is the model itself
    for place in tried:
        if place == good or keeps(float(cuts.thresholds[place])):
            good = place
            break
        failed = place
    for _ in range(BISECTIONS):
        if good - failed <= 1:
            break
        middle = (failed + good) // 2
        if keeps(float(cuts.thresholds[middle])):
            good = middle
        else:
            failed = middle
    none = good == len(cuts.counts) - 1
    source = "validation metric (none within one point but keep-all)" if none else "validation metric"
    return Choice(float(cuts.thresholds[good]), source, bool(cuts.gaps[good] < 0))


def choose_on_paper_grid(values: Tensor, gold: Tensor) -> float:
    """Return the threshold of the paper's grid (Section 4) with the best F1; of equal ones the sparsest.

    The grid decides no score but ``f1_paper_grid``, which published figures are set beside.
    """
    scored = []
    for t in THRESHOLDS:
        _, mask = against_gold(values, threshold(values, t), gold)
        scored.append((micro(mask, gold)["f1"], t))
    return max(scored)[1]

"""Figures drawn over a grid: thinned masks (Table 5), attribution levels (Figure 9), fidelity at every sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.seeds import derive
from ..model.baseline import Baseline
from ..model.gates import Stream
from ..model.graphs import GraphBatch
from ..model.output import Output
from ..plugins.masks import random_like, thin, threshold, top_shares
from .passes import Asking, Effects, effects

DROPPED = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the retained messages that are dropped at random (Table 5)."""

GRID = tuple(i / 20 for i in range(21))
"""Attribution levels of Figure 9, and shares of messages kept: 0, 0.05, ..., 1."""


@dataclass(frozen=True, eq=False)
class Thinned:
    """What becomes of predictions as a random share of the retained messages is dropped, for S shares.

    Args:
        dropped: the S shares.
        kept: only the rest of the retained messages is kept: the paper's Table 5.
        cut: the same messages are dropped from the whole graph, so that the superfluous ones stay.
        random: as many messages of every graph and layer are dropped from the whole graph, at random from all. Where
            ``cut`` does no more harm than this, the retained messages are needed no more than others are.
    """

    dropped: tuple[float, ...]
    kept: Effects
    cut: Effects
    random: Effects


def thinned_masks(mask: Tensor, graphs: GraphBatch, dropped: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the masks of :class:`Thinned` for one share, each of the shape of ``mask``, ``(L, E)`` or ``(1, E)``.

    Every retained message is dropped with probability ``dropped`` (see :func:`.thin`), not an exact share of each
    graph's: graphs retain a message or two, of which there is no quarter. What is dropped depends on seed, graph key,
    layer and edge key alone, and what is dropped at a smaller share is dropped at a larger one too.
    """
    kept = thin(mask, graphs, 1 - dropped, derive("thinned", seed))
    cut = mask & ~kept
    return kept, ~cut, ~random_like(cut, graphs, derive("dropped from all", seed))


def thinned(
    stream: Stream,
    output: Output,
    labels: Tensor,
    mask: Tensor,
    seed: int,
    baselines: Sequence[Tensor | Baseline] | None = None,
    dropped: Sequence[float] = DROPPED,
) -> Asking[Thinned]:
    """Return what dropping retained messages at random does (Table 5, Appendix J), in at most 3 S masked passes.

    Nothing is dropped from the whole graph at a share of 0, which is no pass: 13 passes for the paper's five shares.

    Args:
        stream, output, labels, baselines: as for :func:`.effects`.
        mask: bool, the retained messages: ``(L, E)``, or ``(1, E)`` where one mask serves all layers, which then loses
            the same edges in each.
        seed: of the draws; the same for every method, so that equal masks are thinned equally.
        dropped: S shares in [0, 1].
    """
    triples = [thinned_masks(mask, stream.graphs, share, seed) for share in dropped]
    masks = [mask for kind in zip(*triples, strict=True) for mask in kind]
    under, count = (yield from effects(stream, output, labels, masks, baselines)), len(triples)
    return Thinned(tuple(dropped), under[:count], under[count : 2 * count], under[2 * count :])


def scored_above(values: Tensor, graphs: GraphBatch, levels: Sequence[float] = GRID) -> Tensor:
    """Return the share of a graph's messages in a layer whose score is above a level: Figure 9, no masked pass.

    The paper draws the mean of this over graphs, in percent, one panel per layer ("mean percentage of messages
    assigned attribution scores above a certain level"): :func:`mean_over_graphs` of this. Above is strictly above, as
    for thresholds.

    Args:
        values: ``(L, E)``, scores in [0, 1] (see :func:`.normalise`: gates as they are, others as shares of the
            graph's largest over all layers, so that layers can be compared).
        graphs: the batch.
        levels: T levels.

    Returns:
        ``(T, L, G)`` float64 in [0, 1]; NaN for graphs without edges.
    """
    above = torch.stack([graphs.sum_per_graph(threshold(values, level).long()) for level in levels])
    return above.double() / graphs.num_edges_per_graph


def mean_over_graphs(figures: Tensor) -> Tensor:
    """Return the mean ``(...)`` of ``(..., G)`` over the graphs that have a figure (not NaN); NaN where none has."""
    return figures.nanmean(-1)


@dataclass(frozen=True, eq=False)
class SparsityCurve:
    """Fidelity of the messages that are scored highest, as ever more of them are kept.

    Args:
        shares: the S shares of messages kept, ascending.
        effects: what is left of the predictions at each.
    """

    shares: tuple[float, ...]
    effects: Effects

    @property
    def divergence_area(self) -> Tensor:
        """``(G,)`` float64: the area under D* over the share kept, in nats; lower is better."""
        return area(self.effects.divergence, self.shares)

    @property
    def unchanged_area(self) -> Tensor:
        """``(G,)`` float64: the area under "all predictions stay" (0 or 1), over the share kept; higher is better."""
        return area(self.effects.unchanged.double(), self.shares)


def area(curve: Tensor, shares: Sequence[float]) -> Tensor:
    """Return the area ``(...)`` under the points ``(S, ...)`` at ``shares``, ascending, by the trapezoidal rule."""
    return torch.trapezoid(curve, torch.tensor(shares, dtype=curve.dtype, device=curve.device), dim=0)


def sparsity_curve(
    stream: Stream,
    output: Output,
    labels: Tensor,
    values: Tensor,
    baselines: Sequence[Tensor | Baseline] | None = None,
    shares: Sequence[float] = GRID,
) -> Asking[SparsityCurve]:
    """Return the curve of fidelity over sparsity, in one masked pass for every share below 1: 20 on the grid.

    Of each graph the ``ceil(s L E_g)`` messages that are scored highest over all layers are kept; ties are the
    harness's (:func:`.top_shares`). A graph's curve is drawn over s itself, not over the share after rounding up, so
    that graphs of all sizes have the same abscissa.

    Args:
        stream, output, labels, baselines: as for :func:`.effects`.
        values: ``(L, E)``; larger means that the message matters more.
        shares: S shares in [0, 1], ascending.

    Raises:
        ValueError: on shares that are not ascending.
    """
    if list(shares) != sorted(shares):
        raise ValueError(f"expected ascending shares; got {', '.join(f'{share:g}' for share in shares)}")
    masks = top_shares(values, stream.graphs, shares)
    return SparsityCurve(tuple(shares), (yield from effects(stream, output, labels, masks, baselines)))

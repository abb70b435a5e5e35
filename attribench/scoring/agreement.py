"""Do the layers that a method points to matter to the model? Shares of the score (Table 7) against losses (Table 6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..model.gates import Stream
from ..model.graphs import GraphBatch
from ..model.output import Output
from .passes import Asking, Effects, effects

FEWEST_LAYERS = 3
"""Below it a rank correlation over layers is 1 or -1 by half a chance."""

DECIMALS = 9
"""To which shares and losses are rounded before they are ranked: sums that differ by rounding alone are ties."""


def layer_shares(values: Tensor, graphs: GraphBatch) -> Tensor:
    """Return each layer's share of a graph's total score: Table 7 in [0, 1]; no masked pass.

    The paper gives the mean over graphs (:func:`.mean_over_graphs`), in percent.

    Args:
        values: ``(L, E)``, scores that are not negative.
        graphs: the batch.

    Returns:
        ``(L, G)`` float64, whose columns sum to 1; NaN for graphs without score.
    """
    scored = graphs.sum_per_graph(values.double())
    return scored / scored.sum(0)


def layer_ablations(stream: Stream, output: Output, labels: Tensor) -> Asking[Effects]:
    """Return what becomes of predictions without the messages of one layer, for each of L: Table 6, L masked passes.

    Baselines are zero: the figures are of the model, the same for every method.
    """
    layers = torch.arange(stream.num_layers, device=stream.graphs.device)
    masks = [(layers != k)[:, None].expand(-1, stream.graphs.num_edges) for k in range(stream.num_layers)]
    return effects(stream, output, labels, masks)


@dataclass(frozen=True)
class RankAgreement:
    """Rank correlations over layers, in [-1, 1]; None where there are too few or either order is none.

    Args:
        spearman: Spearman's rho, ties with their mean rank.
        kendall: Kendall's tau-b.
    """

    spearman: float | None
    kendall: float | None


def rank_agreement(shares: Tensor, losses: Tensor) -> RankAgreement:
    """Return whether layers with a larger share of the score are those whose loss costs more.

    None with fewer than three layers, where either is the same for all layers, or where a figure is not finite. Three
    layers have 6 orders: a correlation says little of one model, and is a figure to average over models.

    Args:
        shares: ``(L,)``, means over graphs of :func:`layer_shares`.
        losses: ``(L,)``, of the metric (the whole model's less those of :func:`layer_ablations`), or of D*.
    """
    if shares.dim() != 1 or shares.shape != losses.shape:
        raise ValueError(f"expected shares and losses (L,); got {tuple(shares.shape)} and {tuple(losses.shape)}")
    x, y = (np.round(values.double().cpu().numpy(), DECIMALS) for values in (shares, losses))
    if len(x) < FEWEST_LAYERS or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return RankAgreement(None, None)
    if min(len(np.unique(x)), len(np.unique(y))) < 2:
        return RankAgreement(None, None)
    from scipy.stats import kendalltau, spearmanr  # takes a second, which only scoring needs

    return RankAgreement(float(spearmanr(x, y).statistic), float(kendalltau(x, y).statistic))

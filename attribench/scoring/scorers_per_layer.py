"""Figures of every layer: its shares of scores, of retained and of gold messages, and the mask against its gold."""

from __future__ import annotations

import torch

from .gold import by_layer
from .scorers import GOLD_OF_EVERY_LAYER, NO_GOLD, Made, scorer
from .view import View


@scorer("attribution_share_layer_{k}")
def shares(view: View) -> Made:
    """Return each layer's mean share of a graph's scores, how much of it is retained, and its share of the mask."""
    scored = view.graphs.sum_per_graph(view.values.double())  # (L, G)
    total = scored.sum(0)
    attributed = (scored / torch.where(total > 0, total, 1)).mean(1)
    retained = view.mask.double().sum(1) / max(1, view.graphs.num_edges)
    rows = zip(attributed.tolist(), retained.tolist(), _shares_of_the_mask(view), strict=True)
    return Made(layers=[{"attribution_share": x, "retained": y, "retained_share": z} for x, y, z in rows])


@scorer("retained_share_layer_{k}", needs=[NO_GOLD])
def retained_shares(view: View) -> Made:
    """Give the shares of the mask beside the scores, too, where no gold says how it should be shared out."""
    return Made(layers=[{"retained_share": share} for share in _shares_of_the_mask(view)])


def _shares_of_the_mask(view: View) -> list[float]:
    kept = view.mask.double().sum(1)
    return (kept / kept.sum().clamp(min=1)).tolist()


@scorer(*(f"{name}_layer_{{k}}" for name in ("precision", "recall", "f1", "auroc", "gold_share")),
        needs=[GOLD_OF_EVERY_LAYER])  # fmt: skip
def against_its_gold(view: View) -> Made:
    """Score every layer against its own gold."""
    return Made(layers=by_layer(view.values, view.mask, view.truth))

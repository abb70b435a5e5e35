"""Figures against the gold standard: over all messages, by predicted class, and over the union of the layers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..plugins.masks import THRESHOLDS, threshold
from .gold import against_gold, micro, precision_recall_f1, share_error, soft
from .scorers import CLASSES, GOLD, GOLD_OF_EVERY_LAYER, SEVERAL_LAYERS, THRESHOLD, Made, Value, scorer
from .view import View

NAMES = ("precision", "recall", "f1")


def _counts(view: View) -> list[np.ndarray]:
    """Return true positives, retained and gold messages ``(G,)``."""
    mask, gold = against_gold(view.values, view.mask, view.truth)[1], view.truth
    return [view.graphs.sum_per_graph(x.long().sum(0)).cpu().numpy() for x in (mask & gold, mask, gold)]


@scorer(
    "f1_validation", "f1_paper_grid", *NAMES, *(f"{name}_macro" for name in NAMES), "auroc", "average_precision",
    needs=[GOLD],
)  # fmt: skip
def all_messages(view: View) -> Made:
    """Score the mask and the soft scores over all messages, and the mask in every graph."""
    decision, gold = view.decision, view.truth
    grid = decision.mask if decision.paper_grid is None else decision.paper_grid
    values, mask = against_gold(view.values, view.mask, gold)
    counts = _counts(view)
    rows = dict(zip(NAMES, precision_recall_f1(*counts), strict=True))
    figures = {
        "f1_validation": decision.choice.f1 if decision.choice else None,
        "f1_paper_grid": micro(against_gold(view.values, grid, gold)[1], gold)["f1"],
        **micro(mask, gold),
        **{f"{name}_macro": float(row.mean()) for name, row in rows.items()},
        **soft(values, gold),
    }
    return Made(figures, {**dict(zip(("true_positive", "retained", "gold"), counts, strict=True)), **rows})


@scorer("f1_at_threshold_{t}", needs=[GOLD, THRESHOLD])
def thresholds(view: View) -> Mapping[str, Value]:
    """Say how much the choice of a threshold matters; no choice is made from these."""
    values, _ = against_gold(view.values, view.mask, view.truth)
    return {f"f1_at_threshold_{t:g}": micro(threshold(values, t), view.truth)["f1"] for t in THRESHOLDS}


@scorer(
    *(f"{name}_union" for name in (*NAMES, "auroc")), "layer_share_error", "layer_share_error_mask",
    needs=[GOLD_OF_EVERY_LAYER, SEVERAL_LAYERS],
)  # fmt: skip
def union(view: View) -> Mapping[str, Value]:
    """Score edges, in whatever layer, and how the scores are shared out among the layers.

    A method that gives one mask for all layers cannot do better than find an edge in some layer.
    """
    values, mask, gold = view.values, view.mask, view.truth
    over_edges = {**micro(mask.any(0), gold.any(0)), "auroc": soft(values.amax(0), gold.any(0))["auroc"]}
    return {
        **{f"{name}_union": value for name, value in over_edges.items()},
        "layer_share_error": share_error(values, gold, view.graphs),
        "layer_share_error_mask": share_error(mask, gold, view.graphs),
    }


@scorer(*(f"{name}_predicted_{{label}}" for name in NAMES), needs=[GOLD, CLASSES])
def by_predicted_class(view: View) -> Mapping[str, Value]:
    """Score the graphs of every predicted class: an empty mask may keep one class for nothing."""
    figures: dict[str, Value] = {}
    counts = _counts(view)
    for label, graphs in view.by_class:
        triple = precision_recall_f1(*(np.asarray(count[graphs].sum()) for count in counts))
        figures |= {f"{name}_predicted_{label}": float(x) for name, x in zip(NAMES, triple, strict=True)}
    return figures

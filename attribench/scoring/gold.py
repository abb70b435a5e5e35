"""Scores against a gold standard: in all, over the union of layers, and layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from ..model.graphs import GraphBatch


def precision_recall_f1(
    tp: np.ndarray, kept: np.ndarray, gold: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision, recall and F1 from counts of true positives, retained and gold messages (arrays).

    Where nothing is retained and nothing is gold all three are 1; any other division by zero gives 0.
    """
    both_empty = (kept == 0) & (gold == 0)

    def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        return np.where(both_empty, 1.0, top / np.maximum(bottom, 1))

    return ratio(tp, kept), ratio(tp, gold), ratio(2 * tp, kept + gold)


def against_gold(values: Tensor, mask: Tensor, gold: Tensor) -> tuple[Tensor, Tensor]:
    """Bring scores and mask to the gold's layers: as they are, or their union where only the gold's union is known."""
    return (values, mask) if len(gold) == len(mask) else (values.amax(0, keepdim=True), mask.any(0, keepdim=True))


def micro(mask: Tensor, gold: Tensor) -> dict[str, float]:
    """Return precision, recall and F1 over all messages of a batch."""
    counts = (np.asarray(int(x.sum())) for x in (mask & gold, mask, gold))
    return dict(zip(("precision", "recall", "f1"), map(float, precision_recall_f1(*counts)), strict=True))


def soft(values: Tensor, gold: Tensor) -> dict[str, float | None]:
    """Return threshold-free figures over all messages; None where the gold is all or nothing."""
    from sklearn.metrics import average_precision_score, roc_auc_score  # takes a second, which only scoring needs

    truth, score = gold.flatten().cpu().numpy(), values.flatten().double().cpu().numpy()
    if truth.all() or not truth.any():
        return {"auroc": None, "average_precision": None}
    return {
        "auroc": float(roc_auc_score(truth, score)),
        "average_precision": float(average_precision_score(truth, score)),
    }


def by_layer(values: Tensor, mask: Tensor, gold: Tensor) -> list[dict[str, Any]]:
    """Return precision, recall, F1 and AUROC of every layer, and its share of the gold messages."""
    shares = gold.double().sum(1) / gold.sum().clamp(min=1)
    return [
        {**micro(mask[k], gold[k]), "auroc": soft(values[k], gold[k])["auroc"], "gold_share": float(shares[k])}
        for k in range(len(gold))
    ]


def share_error(values: Tensor, gold: Tensor, graphs: GraphBatch) -> float | None:
    """Return how far the layers' shares of a graph's scores are from their shares of its gold messages, in [0, 1].

    The total variation distance, which says nothing of which messages the scores are on; the mean over the graphs that
    have both; None where none has.

    Args:
        values: ``(L, E)``, scores that are not negative, or a mask.
        gold: ``(L, E)`` bool.
        graphs: the batch.
    """
    scored, right = (graphs.sum_per_graph(x.double()) for x in (values, gold))  # (L, G)
    both = (scored.sum(0) > 0) & (right.sum(0) > 0)
    scored, right = scored[:, both], right[:, both]
    error = (scored / scored.sum(0) - right / right.sum(0)).abs().sum(0) / 2
    return float(error.mean()) if len(error) else None

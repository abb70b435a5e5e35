"""One of a graph's own candidates: a class per graph where every graph has other classes, and as many as it has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .graphs import GraphBatch
from .output import Categorical
from .output_checks import check_classes


class MultipleChoice(Categorical):
    """One of the candidates of each graph, from logits ``(G, C)``; D* is KL(reference || logits) over them.

    The graph attribute ``choices``, ``(G, C)`` bool, says which columns are candidates of a graph, one at least; what
    the others hold does not matter. The number of a candidate means nothing beyond its graph, so no figure is broken
    down by it.

    Args:
        unseen: whether a label may be C, one more than the last column: an answer that is no candidate of the model's
            and that counts as missed.
    """

    metric_name = "accuracy"

    def __init__(self, unseen: bool = False) -> None:
        self.unseen = unseen

    def select(self, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return the logits, with so little where there is no candidate that its probability is 0."""
        # finite, so that what is not there has a KL and a gradient of 0, and not of no number
        return logits.masked_fill(~graphs["choices"], torch.finfo(logits.dtype).min / 4)

    def quality(self, rows: Tensor, labels: Tensor) -> float:
        """Return the accuracy."""
        return float((self.decide(rows) == labels.view(len(rows))).to(torch.float64).mean())

    def check_logits(self, logits: Any, graphs: GraphBatch) -> str | None:
        """Expect a row per graph, and at least one candidate among its columns."""
        return super().check_logits(logits, graphs) or _check_choices(logits, graphs)

    def check_values(self, labels: Tensor, rows: Tensor) -> str | None:
        """Expect the number of a column, or one more where ``unseen``."""
        return check_classes(labels, rows.shape[1] + self.unseen)


def _check_choices(logits: Tensor, graphs: GraphBatch) -> str | None:
    """Return what is wrong with the graphs' candidates, in one line, or None."""
    expected = f"expected a graph attribute 'choices' of bool {tuple(logits.shape)}, the candidates of each graph"
    choices = graphs.graph.get("choices")
    if choices is None:
        return f"{expected}; got none among {', '.join(graphs.graph) or 'no attributes'}"
    if choices.dtype != torch.bool or choices.shape != logits.shape:
        return f"{expected}; got {choices.dtype} {tuple(choices.shape)}"
    empty = (~choices.any(1)).nonzero()[:1, 0].tolist()
    return f"{expected}; graph {empty[0]} has none" if empty else None

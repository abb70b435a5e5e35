"""Outputs of yes or no, each the logit of a coin: one per graph, one for a pair of nodes, or several labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..base.errors import UserError
from .graphs import GraphBatch
from .output import Output
from .output_checks import check_bits, check_nodes, check_target_class, check_target_column, within_unit


class BinaryClassification(Output):
    """Two classes from one logit per graph, ``(G,)`` or ``(G, 1)``: z > 0 is class 1, whose probability is sigmoid(z).

    All is as for :class:`~attribench.GraphClassification` with the logits 0 and z, but that the ``logit`` of a
    class is its log-odds: z for class 1, -z for class 0.

    Args:
        target_class: the class that loss and target are about, 0 or 1; the predicted one where None.
    """

    metric_name = "accuracy"
    shapes = "(R,) or (R, 1)"

    def __init__(self, target_class: int | None = None) -> None:
        self.target_class = check_target_class(target_class)
        if target_class is not None and target_class > 1:
            raise UserError(f"expected a target_class of 0, 1 or None for one logit; got {target_class}")

    def select(self, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return the logits ``(G,)``."""
        return logits.reshape(len(logits))

    def decide(self, rows: Tensor) -> Tensor:
        """Return the more probable class; 0 where they are equal."""
        return (rows > 0).long()

    def explained(self, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return the class to explain ``(G,)``."""
        predicted = self.predict(logits, graphs)
        return predicted if self.target_class is None else torch.full_like(predicted, self.target_class)

    def row_divergence(self, reference: Tensor, rows: Tensor) -> Tensor:
        """Return KL(reference || rows) of the two coins."""
        return coin_divergence(reference, rows)

    def score(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the log-odds of the class."""
        return torch.where(values > 0, rows, -rows)

    def row_loss(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the binary cross-entropy."""
        return -F.logsigmoid(self.score(values, rows))

    def probability(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the probability of the class."""
        return self.score(values, rows).sigmoid()

    def classes(self, reference: Tensor, graphs: GraphBatch) -> Tensor | None:
        """Return the predicted class."""
        return self.predict(reference, graphs)

    def quality(self, rows: Tensor, labels: Tensor) -> float:
        """Return the accuracy."""
        return float((self.decide(rows) == labels.view_as(rows)).to(torch.float64).mean())

    def check_columns(self, logits: Tensor) -> str | None:
        """Expect one logit."""
        if logits.dim() == 2 and logits.shape[1] != 1:
            use = "for a logit per class use GraphClassification, for several labels MultiLabelClassification"
            return f"expected one logit per {self.level}; got shape {tuple(logits.shape)}: {use}"
        return None

    def check_values(self, labels: Tensor, rows: Tensor) -> str | None:
        """Expect 0 or 1."""
        return check_bits(labels, (len(rows),))

    def looks_like_probabilities(self, logits: Tensor) -> bool:
        """Return whether all values are in [0, 1], and not all of them 0."""
        return within_unit(logits)


class LinkPrediction(BinaryClassification):
    """Are two nodes linked? One logit per graph, about the pair of nodes that the graph attribute ``pair`` names.

    ``pair`` is ``(G, 2)`` int64 and numbers the nodes within each graph; for the pairs of one big graph see
    :func:`~attribench.neighbourhoods`. All else is as for one logit.
    """

    def check_logits(self, logits: Any, graphs: GraphBatch) -> str | None:
        """Expect a logit, and a pair of nodes in every graph."""
        return check_nodes(graphs, "pair", (2,)) or super().check_logits(logits, graphs)


class MultiLabelClassification(Output):
    """Any number of C labels per graph, from logits ``(G, C)``: a label is predicted where its logit is above 0.

    D* is the sum over labels of the KL of their coins; loss and target are sums over labels, of the log-odds (or the
    product of the probabilities) of what is predicted of each. The metric is micro F1; figures are not broken down.

    Args:
        target_class: the label whose prediction alone loss and target are about; all where None.
    """

    metric_name = "F1"
    shapes = "(R, C)"

    def __init__(self, target_class: int | None = None) -> None:
        self.target_class = check_target_class(target_class)

    def select(self, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return the logits ``(G, C)``, also of one label."""
        return logits

    def decide(self, rows: Tensor) -> Tensor:
        """Return 1 for every label that is predicted, else 0, ``(G, C)``."""
        return (rows > 0).long()

    def explained(self, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return what is predicted of the labels to explain, ``(G, C)``, and -1 for all others."""
        predicted = self.predict(logits, graphs)
        if self.target_class is None:
            return predicted
        explained = torch.full_like(predicted, -1)
        explained[:, self.target_class] = predicted[:, self.target_class]
        return explained

    def row_divergence(self, reference: Tensor, rows: Tensor) -> Tensor:
        """Return the sum over labels of KL(reference || rows) of the two coins."""
        return coin_divergence(reference, rows).sum(-1)

    def score(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the sum of the log-odds of ``values``, where they are not -1."""
        return (self._log_odds(values, rows) * (values >= 0)).sum(-1)

    def row_loss(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the sum of the binary cross-entropies of ``values``, where they are not -1."""
        return -(F.logsigmoid(self._log_odds(values, rows)) * (values >= 0)).sum(-1)

    def quality(self, rows: Tensor, labels: Tensor) -> float:
        """Return micro F1 over graphs and labels; 0 where nothing is predicted or there."""
        predicted, there = self.decide(rows) > 0, labels.view_as(rows) > 0
        return 2 * int((predicted & there).sum()) / max(1, int(predicted.sum()) + int(there.sum()))

    def check_columns(self, logits: Tensor) -> str | None:
        """Expect a column per label, also for the label to explain."""
        if logits.dim() != 2:
            return f"expected a logit per label, a column each; got {tuple(logits.shape)}: use BinaryClassification"
        return check_target_column(self.target_class, logits)

    def check_values(self, labels: Tensor, rows: Tensor) -> str | None:
        """Expect 0 or 1 for every graph and label."""
        return check_bits(labels, tuple(rows.shape))

    def looks_like_probabilities(self, logits: Tensor) -> bool:
        """Return whether all values are in [0, 1], and not all of them 0."""
        return within_unit(logits)

    def _log_odds(self, values: Tensor, rows: Tensor) -> Tensor:
        return torch.where(values > 0, rows, -rows)


def coin_divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """Return KL(sigmoid(reference) || sigmoid(logits)), elementwise and in nats; finite for finite logits."""
    heads = reference.sigmoid() * (F.logsigmoid(reference) - F.logsigmoid(logits))
    return heads + (-reference).sigmoid() * (F.logsigmoid(-reference) - F.logsigmoid(-logits))

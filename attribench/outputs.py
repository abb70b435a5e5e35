"""Outputs that are no choice among classes: one logit, several labels, values, and pairs of nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import UserError
from .graphs import GraphBatch
from .output import Output
from .output_checks import check_coins, check_nodes, check_target_class, check_target_column, first_bad


class Coins(Output):
    """Base of outputs whose columns are logits of independent yes-or-no answers; D* is the sum of their KLs."""

    def decide(self, rows: Tensor) -> Tensor:
        """Return which logits are above 0, ``(R, C)`` int64."""
        return (_columns(rows) > 0).long()

    def row_divergence(self, reference: Tensor, rows: Tensor) -> Tensor:
        """Return the sum over columns of KL(sigmoid(reference) || sigmoid(rows))."""
        before, after = _columns(reference), _columns(rows)
        yes = before.sigmoid() * (F.logsigmoid(before) - F.logsigmoid(after))
        no = (-before).sigmoid() * (F.logsigmoid(-before) - F.logsigmoid(-after))
        return (yes + no).sum(1)

    def row_loss(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the sum over columns of the binary cross-entropy."""
        return -self.asked(F.logsigmoid(_signed(values, rows))).sum(1)

    def score(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the sum over columns of the log-odds of the answers: z for yes, -z for no."""
        return self.asked(_signed(values, rows)).sum(1)

    def looks_like_probabilities(self, logits: Tensor) -> bool:
        """Return whether every value is in [0, 1]."""
        return bool(logits.numel() and (logits >= 0).all() and (logits <= 1).all())

    def asked(self, columns: Tensor) -> Tensor:
        """Return the columns that loss and target are about."""
        return columns


class BinaryClassification(Coins):
    """Yes or no per graph, from one logit ``(G,)`` or ``(G, 1)``; as two classes with the logits 0 and z.

    The target "logit" is z where yes is explained and -z where no is: the log-odds of the answer.

    Args:
        target_class: the answer that loss and target are about, 0 or 1; the predicted one where None.

    Raises:
        UserError: for another ``target_class``.
    """

    metric_name = "accuracy"
    shapes = "(R,) or (R, 1)"

    def __init__(self, target_class: int | None = None) -> None:
        self.target_class = check_target_class(target_class)
        if target_class not in (None, 0, 1):
            raise UserError(f"expected a target_class of 0 or 1; got {target_class}")

    def explained(self, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return the answer to explain ``(G, 1)``."""
        predicted = self.predict(logits, graphs)
        return predicted if self.target_class is None else torch.full_like(predicted, self.target_class)

    def classes(self, reference: Tensor, graphs: GraphBatch) -> Tensor | None:
        """Return the predicted answer."""
        return self.predict(reference, graphs)[:, 0]

    def quality(self, rows: Tensor, labels: Tensor) -> float:
        """Return the accuracy."""
        return float((self.decide(rows)[:, 0] == labels.long()).to(torch.float64).mean())

    def check_columns(self, logits: Tensor) -> str | None:
        """Expect one column."""
        if logits.dim() == 2 and logits.shape[1] != 1:
            return f"expected one logit; got {logits.shape[1]} columns: for classes use GraphClassification"
        return None

    def check_values(self, labels: Tensor, rows: Tensor) -> str | None:
        """Expect 0 or 1, as integers, truth values or numbers."""
        if labels.dim() != 1:
            return f"expected labels of shape ({len(labels)},); got {tuple(labels.shape)}: flatten them"
        return check_coins(labels)


class LinkPrediction(BinaryClassification):
    """Is there an edge between a pair of nodes? One logit per graph, which is the pair's joint neighbourhood.

    The graph attribute ``pair``, ``(G, 2)`` int64, numbers the two among the nodes of their graph; the model reads it.
    See :func:`~attribench.neighbourhoods.neighbourhoods`.
    """

    def check_logits(self, logits: Any, graphs: GraphBatch) -> str | None:
        """Expect one logit per pair."""
        return check_nodes(graphs, "pair", (2,)) or super().check_logits(logits, graphs)


class MultiLabelClassification(Coins):
    """Several yes-or-no labels per graph from logits ``(G, C)``; labels ``(G, C)``. The metric is micro F1.

    A prediction is unchanged where all labels are. There is no breakdown by class.

    Args:
        target_class: the label that loss and target are about; all of them where None.
    """

    metric_name = "F1"
    shapes = "(R, C)"

    def __init__(self, target_class: int | None = None) -> None:
        self.target_class = check_target_class(target_class)

    def asked(self, columns: Tensor) -> Tensor:
        """Return all labels' columns, or that of the one to explain."""
        return columns if self.target_class is None else columns[:, [self.target_class]]

    def quality(self, rows: Tensor, labels: Tensor) -> float:
        """Return micro F1 over all labels; 0 where nothing is predicted or there."""
        predicted, there = self.decide(rows) > 0, labels > 0
        return 2 * int((predicted & there).sum()) / max(1, int(predicted.sum()) + int(there.sum()))

    def check_columns(self, logits: Tensor) -> str | None:
        """Expect a column per label, also for the one to explain."""
        if logits.dim() == 1 or not logits.shape[1]:
            return f"expected one logit per label; got shape {tuple(logits.shape)}: use BinaryClassification for one"
        return check_target_column(self.target_class, logits)

    def check_values(self, labels: Tensor, rows: Tensor) -> str | None:
        """Expect 0 or 1 for every label."""
        if labels.shape != rows.shape:
            return f"expected labels of shape {tuple(rows.shape)}; got {tuple(labels.shape)}"
        return check_coins(labels)


class GraphRegression(Output):
    """Values per graph from an output ``(G,)`` or ``(G, T)``; D* is the squared difference over 2 sigma squared.

    That is the KL of two Gaussians of the model's own error sigma, per value the root mean squared error on validation;
    values are summed. A prediction is unchanged where every value stays within sigma. The metric is R squared (of
    several values their mean), which may be below 0; the target is the sum of the values.

    Args:
        sigma: ``(T,)``; taken from the model's validation output by :meth:`fitted` where None.
    """

    metric_name = "R2"
    shapes = "(R,) or (R, T)"

    def __init__(self, sigma: Tensor | None = None) -> None:
        self._sigma = sigma

    @property
    def sigma(self) -> Tensor:
        """The scale of each value ``(T,)``.

        Raises:
            UserError: before it is known.
        """
        if self._sigma is None:
            raise UserError("expected the scale of a GraphRegression; it is not known yet: call fitted() first")
        return self._sigma

    def fitted(self, logits: Tensor, labels: Tensor, graphs: GraphBatch) -> GraphRegression:
        """Return the output whose sigma is the root mean squared error of ``logits``.

        Raises:
            UserError: when that is 0: a model without an error leaves no scale to measure differences by.
        """
        if self._sigma is not None:
            return self
        sigma = (_columns(logits) - _columns(labels)).square().mean(0).sqrt()
        if not bool((sigma > 0).all()):
            raise UserError(
                "expected a model with some error on validation, by which changes are measured; it has none: give "
                "GraphRegression(sigma=...)"
            )
        return GraphRegression(sigma)

    def decide(self, rows: Tensor) -> Tensor:
        """Return the values."""
        return _columns(rows)

    def row_divergence(self, reference: Tensor, rows: Tensor) -> Tensor:
        """Return the sum over values of (reference - rows)^2 / (2 sigma^2)."""
        return self.row_loss(_columns(reference), rows)

    def row_loss(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the negative log-likelihood, but for a constant."""
        return ((_columns(rows) - values) / self.sigma.to(rows)).square().sum(1) / 2

    def same(self, reference: Tensor, rows: Tensor) -> Tensor:
        """Return whether every value stays within sigma."""
        return ((_columns(reference) - _columns(rows)).abs() <= self.sigma.to(rows)).all(1)

    def score(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the sum of the values."""
        return _columns(rows).sum(1)

    def probability(self, values: Tensor, rows: Tensor) -> Tensor:
        """Refuse: values have no probability.

        Raises:
            UserError: always.
        """
        raise UserError("expected target=logit for a regression, whose values have no probability; got probability")

    def quality(self, rows: Tensor, labels: Tensor) -> float:
        """Return R squared."""
        truth = _columns(labels).double()
        left = (_columns(rows).double() - truth).square().sum(0)
        return float((1 - left / (truth - truth.mean(0)).square().sum(0).clamp(min=1e-300)).mean())

    def check_values(self, labels: Tensor, rows: Tensor) -> str | None:
        """Expect a finite number for every value, and two different ones of each: else R squared means nothing."""
        if _columns(labels).shape != _columns(rows).shape:
            return f"expected labels of shape {tuple(rows.shape)}; got {tuple(labels.shape)}"
        if not labels.is_floating_point():
            return f"expected floating-point labels; got {labels.dtype}: convert them with .float()"
        bad = first_bad(labels, torch.isfinite(labels), "a finite value")
        if bad is None and bool((_columns(labels) == _columns(labels)[0]).all(0).any()):
            return "expected labels of at least two different values, by which R2 is measured; got one for all graphs"
        return bad


def _columns(rows: Tensor) -> Tensor:
    """Return ``(R, C)``; one column of what has none."""
    return rows[:, None] if rows.dim() == 1 else rows


def _signed(values: Tensor, rows: Tensor) -> Tensor:
    """Return the log-odds of the answers ``values`` ``(R, C)``."""
    return _columns(rows) * (2 * _columns(values) - 1).to(rows.dtype)

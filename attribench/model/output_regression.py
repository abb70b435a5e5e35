"""Values as outputs: a normal distribution about each, as wide as the model's error on validation graphs."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from ..base.errors import Skipped, UserError
from .graphs import GraphBatch
from .output import Output
from .output_checks import first_bad, reshaped

LEAST_ERROR = 1e-6
"""Error on validation, as a share of the largest label, below which it is rounding and no scale."""


class GraphRegression(Output):
    """T values per graph, ``(G, T)``, or one, ``(G,)`` or ``(G, 1)``; labels have the shape ``(G, T)``, or ``(G,)``.

    With sigma the model's root mean squared error on validation graphs, one for every value: D* is
    KL(N(reference, sigma^2) || N(values, sigma^2)), the squared difference over 2 sigma^2, summed over values; the
    loss is the negative log-likelihood without its constant, the same form; a prediction is unchanged where all values
    are within sigma. The target is the sum of the values themselves: there is no other ``logit``, and no
    ``probability``. The metric is R^2, the mean over values; below 0 where the labels' mean predicts better.

    Args:
        sigma: the scale that the task states, for all values or for each; that of :meth:`fitted` where None.

    Raises:
        UserError: when sigma is not above 0.
    """

    metric_name = "R2"
    shapes = "(R,), (R, 1) or (R, T)"

    def __init__(self, sigma: float | Sequence[float] | None = None) -> None:
        self._sigma = None if sigma is None else torch.as_tensor(sigma, dtype=torch.float64).reshape(-1)
        if self._sigma is not None and not bool(((self._sigma > 0) & self._sigma.isfinite()).all()):
            raise UserError(f"expected a sigma above 0; got {sigma}")

    @property
    def sigma(self) -> Tensor:
        """The scale of every value, ``(T,)`` or ``(1,)``.

        Raises:
            UserError: before :meth:`fitted`.
        """
        if self._sigma is None:
            remedy = "call output.fitted(logits, labels, graphs) with validation graphs, or state a sigma"
            raise UserError(f"expected a regression whose scale is known; got none: {remedy}")
        return self._sigma

    def fitted(self, logits: Tensor, labels: Tensor, graphs: GraphBatch) -> GraphRegression:
        """Return a copy whose sigma is the model's root mean squared error; itself where the task states one.

        Raises:
            UserError: when the model is exactly right, up to rounding, or worse than a constant: its error is no scale.
        """
        if self._sigma is not None:
            return self
        rows = self.select(logits, graphs).detach().double()
        truth = labels.reshape(rows.shape).double()
        sigma = (rows - truth).square().mean(0).sqrt()
        for k, (error, largest) in enumerate(zip(sigma.tolist(), truth.abs().amax(0).tolist(), strict=True)):
            if not error > LEAST_ERROR * largest:
                got = f"a root mean squared error of {error:.3g} for value {k} on validation graphs"
                raise UserError(f"expected an error that is a scale; got {got}: state one, GraphRegression(sigma=...)")
        share = self.quality(rows, truth)
        if share < 0:
            raise UserError(
                f"expected a model that predicts better than the mean of the labels, so that its error is a scale; its "
                f"R2 on validation graphs is {share:.3g}: are the labels in other units? If not, state a scale, "
                "GraphRegression(sigma=...)"
            )
        result = copy(self)
        result._sigma = sigma
        return result

    def select(self, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return the values ``(G, T)``."""
        return logits if logits.dim() == 2 else logits[:, None]

    def decide(self, rows: Tensor) -> Tensor:
        """Return the values."""
        return rows

    def row_divergence(self, reference: Tensor, rows: Tensor) -> Tensor:
        """Return the squared difference over 2 sigma^2, summed over values."""
        return ((rows - reference) / self.sigma.to(rows)).square().sum(-1) / 2

    def row_loss(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the squared difference over 2 sigma^2, summed over values."""
        return self.row_divergence(values, rows)

    def score(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the sum of the values that the model returns."""
        return rows.sum(-1)

    def probability(self, values: Tensor, rows: Tensor) -> Tensor:
        """Raise Skipped: a value has no probability."""
        raise Skipped("a regression's value has no probability: set target=logit, which is the value itself")

    def same(self, reference: Tensor, rows: Tensor) -> Tensor:
        """Return whether all values are within sigma of the reference."""
        return ((rows - reference).abs() <= self.sigma.to(rows)).all(-1)

    def quality(self, rows: Tensor, labels: Tensor) -> float:
        """Return R^2; where labels do not vary, 1 if all are met exactly, else 0."""
        rows, truth = rows.double(), labels.reshape(rows.shape).double()
        missed = (rows - truth).square().sum(0)
        varied = (truth - truth.mean(0)).square().sum(0)
        share = torch.where(varied > 0, 1 - missed / torch.where(varied > 0, varied, 1), (missed == 0).double())
        return float(share.mean())

    def check_columns(self, logits: Tensor) -> str | None:
        """Expect as many values as there are scales, where the task states several."""
        width = 1 if logits.dim() == 1 else logits.shape[1]
        if width == 0 or (self._sigma is not None and len(self._sigma) not in (1, width)):
            stated = "one value or more" if self._sigma is None else f"{len(self._sigma)} values, one per sigma,"
            return f"expected {stated} per graph; got {width}"
        return None

    def check_values(self, labels: Tensor, rows: Tensor) -> str | None:
        """Expect finite floating-point values, of the shape of the output."""
        shape = (len(rows),) if rows.shape[1] == 1 else tuple(rows.shape)
        if labels.shape != shape:
            return f"expected labels of shape {shape}; got {tuple(labels.shape)}: {reshaped(labels, shape)}"
        if not labels.is_floating_point():
            return f"expected floating-point labels; got {labels.dtype}: convert them with .float()"
        reason = first_bad(labels, labels.isfinite(), "a finite value")
        if reason is None and len(labels) > 1 and bool((labels == labels[0]).all(0).any()):
            reason = f"expected labels that differ, which R2 needs; got {labels[0].tolist()} for every graph"
        return reason

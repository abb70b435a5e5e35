"""What a model's output means: how predictions, losses and divergences are computed, one figure per graph.

An output has rows: one per graph, or one per node. :class:`Output` reduces what is said of rows to graphs, so that an
output of one's own says only what a row means, in the four methods of :class:`Output` that are abstract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..base.errors import UserError
from .graphs import GraphBatch
from .output_checks import check_classes, check_nodes, check_target_class, check_target_column, first_bad, within_unit

Level = Literal["graph", "node"]

PROBABILITY_TOLERANCE = 1e-4
"""How far from 1 the sums of rows may be that are taken for probabilities, or the rounding of a coarser type."""

LEAST_SURE = 0.1
"""Values in [0, 1] that come nearer than this to both ends are taken for probabilities."""


class Output(ABC):
    """Meaning of a model's raw output. Everything is reduced to one figure per graph and never across graphs.

    D* is the mean over a graph's rows, so that a tolerance means the same for small graphs and large ones; loss and
    target are sums.
    """

    metric_name: ClassVar[str]
    #: What there is one prediction, and one label, for.
    level: ClassVar[Level] = "graph"
    #: What the model returns one row for, where :meth:`select` makes it other than ``level``.
    row_level: ClassVar[Level | None] = None
    #: The shapes of an output of R rows, in words.
    shapes: ClassVar[str] = "(R,) or (R, C)"

    # What an output of one's own says: of the rows of :meth:`select`, here R in number.

    @abstractmethod
    def decide(self, rows: Tensor) -> Tensor:
        """Return what is predicted, ``(R,)`` or ``(R, ...)``."""

    @abstractmethod
    def row_divergence(self, reference: Tensor, rows: Tensor) -> Tensor:
        """Return D* ``(R,)`` in nats: how far ``rows`` are from the original model's ``reference``."""

    @abstractmethod
    def row_loss(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the negative log-likelihood ``(R,)`` of ``values`` like those of :meth:`decide`, in nats."""

    @abstractmethod
    def quality(self, rows: Tensor, labels: Tensor) -> float:
        """Return the task's metric: 1 is best."""

    # What it may say otherwise.

    def select(self, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return the rows of an output that are predictions: unless said otherwise all; one column is a vector."""
        return logits[:, 0] if logits.dim() == 2 and logits.shape[1] == 1 else logits

    def score(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the ``logit`` of ``values``, ``(R,)``: by default the log-likelihood."""
        return -self.row_loss(values, rows)

    def probability(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the ``probability`` of ``values``, ``(R,)``."""
        return self.row_loss(values, rows).neg().exp()

    def same(self, reference: Tensor, rows: Tensor) -> Tensor:
        """Return ``(R,)`` bool: do the predictions stay?"""
        equal = self.decide(reference) == self.decide(rows)
        return equal if equal.dim() == 1 else equal.flatten(1).all(1)

    def says(self, rows: Tensor) -> Tensor:
        """Return ``(R,)`` bool: does a row say something? By default each does."""
        return torch.ones(len(rows), dtype=torch.bool, device=rows.device)

    def explained(self, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return what :meth:`loss` and :meth:`target` are about: the prediction, unless another class is asked for."""
        return self.predict(logits, graphs)

    def classes(self, reference: Tensor, graphs: GraphBatch) -> Tensor | None:
        """Return ``(G,)`` int64, the class by which figures are broken down; None where there is none."""
        return None

    def fitted(self, logits: Tensor, labels: Tensor, graphs: GraphBatch) -> Output:
        """Return this output with what it takes from the model's validation output; called once by the harness."""
        return self

    # What follows from it.

    def predict(self, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return the predictions, one per row."""
        return self.decide(self.select(logits, graphs))

    def divergence(self, reference: Tensor, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return D* of Eq. 5, ``(G,)`` in nats: how far ``logits`` are from the original model's ``reference``."""
        values = self.row_divergence(self.select(reference, graphs), self.select(logits, graphs))
        total = self._sum(values, graphs)
        return total / graphs.num_nodes_per_graph.clamp(min=1) if self.level == "node" else total

    def loss(self, values: Tensor, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return the negative log-likelihood ``(G,)`` of ``values``, in nats."""
        return self._sum(self.row_loss(values, self.select(logits, graphs)), graphs)

    def target(self, values: Tensor, logits: Tensor, graphs: GraphBatch, kind: str) -> Tensor:
        """Return the scalar ``(G,)`` that gradients explain: ``logit`` or ``probability`` of ``values``."""
        kinds = {"logit": self.score, "probability": self.probability}
        if kind not in kinds:
            raise UserError(f"expected a target among {', '.join(kinds)}; got {kind!r}")
        return self._sum(kinds[kind](values, self.select(logits, graphs)), graphs)

    def unchanged(self, reference: Tensor, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return ``(G,)`` bool: are all predictions of a graph those of the ``reference`` output?"""
        same = self.same(self.select(reference, graphs), self.select(logits, graphs))
        return self._sum((~same).long(), graphs) == 0

    def changes(self, reference: Tensor, logits: Tensor, graphs: GraphBatch) -> tuple[Tensor, Tensor]:
        """Return ``(G,)`` int64 each: how many of a graph's predictions change, of how many.

        Counted are rows of which either output says something (:meth:`says`): among the tokens of a sentence that have
        no role with or without messages, none changes, however many they are.
        """
        before, after = self.select(reference, graphs), self.select(logits, graphs)
        counted = self.says(before) | self.says(after)
        changed = counted & ~self.same(before, after)
        return self._sum(changed.long(), graphs), self._sum(counted.long(), graphs)

    def metric(self, logits: Tensor, labels: Tensor, graphs: GraphBatch) -> float:
        """Return the task's metric."""
        return self.quality(self.select(logits, graphs), labels)

    @property
    def unit(self) -> Level:
        """What the model returns one row for."""
        return self.row_level or self.level

    def row_graph(self, graphs: GraphBatch) -> Tensor:
        """Return ``(R,)``: the graph of every row that the model must return."""
        return graphs.batch if self.unit == "node" else torch.arange(graphs.num_graphs, device=graphs.device)

    def num_labels(self, graphs: GraphBatch) -> int:
        """Return how many labels a split must have: one per prediction."""
        return graphs.num_nodes if self.level == "node" else graphs.num_graphs

    # What is checked once per split. Values that are not finite are the caller's.

    def check_logits(self, logits: Any, graphs: GraphBatch) -> str | None:
        """Return what is wrong with a model's output for ``graphs``, in one line, or None."""
        if not isinstance(logits, Tensor):
            return f"expected a tensor from the model; got {type(logits).__name__}: return the logits alone"
        rows = len(self.row_graph(graphs))
        if logits.dim() not in (1, 2) or len(logits) != rows:
            shapes = self.shapes.replace("R", str(rows))
            expected = f"expected an output of shape {shapes}, one row per {self.unit}"
            return f"{expected}; got {tuple(logits.shape)}: {self._remedy(logits, graphs)}"
        if not logits.is_floating_point():
            return f"expected a floating-point output; got {logits.dtype}: return logits, not predictions"
        return self.check_columns(logits)

    def check_columns(self, logits: Tensor) -> str | None:
        """Return what is wrong with the columns of an output whose rows are right, in one line, or None."""
        return None

    def check_labels(self, labels: Tensor, logits: Tensor, graphs: GraphBatch) -> str | None:
        """Return what is wrong with a split's labels, given a right output for it, in one line, or None."""
        count = self.num_labels(graphs)
        if labels.dim() == 0 or len(labels) != count:
            return f"expected {count} labels, one per {self.level}; got shape {tuple(labels.shape)}"
        return self.check_values(labels, self.select(logits, graphs))

    def check_values(self, labels: Tensor, rows: Tensor) -> str | None:
        """Return what is wrong with labels of the right number, in one line, or None."""
        return first_bad(labels, torch.isfinite(labels), "a finite value")

    def looks_like_probabilities(self, logits: Tensor) -> bool:
        """Return whether the output of a whole split is one of probabilities, where logits are expected."""
        return False

    def _sum(self, values: Tensor, graphs: GraphBatch) -> Tensor:
        """Sum ``(R,)`` values of predictions to ``(G,)``."""
        if self.level == "graph":
            return values
        return values.new_zeros(graphs.num_graphs).index_add(0, self.row_graph(graphs), values)

    def _remedy(self, logits: Tensor, graphs: GraphBatch) -> str:
        if self.unit == "graph" and logits.dim() in (1, 2) and len(logits) == graphs.num_nodes:
            return "pool the nodes of each graph, or use an output with one row per node"
        return "return one row for each, in their order"


class Categorical(Output):
    """Base of outputs with one class per row, from logits ``(R, C)``; D* is KL(reference || logits)."""

    shapes = "(R, C)"

    def decide(self, rows: Tensor) -> Tensor:
        """Return the most probable class."""
        return rows.argmax(-1)

    def row_divergence(self, reference: Tensor, rows: Tensor) -> Tensor:
        """Return KL(softmax(reference) || softmax(rows))."""
        return F.kl_div(rows.log_softmax(-1), reference.log_softmax(-1), reduction="none", log_target=True).sum(-1)

    def row_loss(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return F.cross_entropy(rows, values, reduction="none")

    def score(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the class's logit."""
        return rows.gather(-1, values[:, None])[:, 0]

    def probability(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the class's probability."""
        return rows.softmax(-1).gather(-1, values[:, None])[:, 0]

    def check_columns(self, logits: Tensor) -> str | None:
        """Expect a column per class, and two classes or more."""
        if logits.dim() == 1 or logits.shape[1] < 2:
            got = f"shape {tuple(logits.shape)}: for one logit use BinaryClassification, for values GraphRegression"
            return f"expected one logit per class, two columns or more; got {got}"
        return None

    def check_values(self, labels: Tensor, rows: Tensor) -> str | None:
        """Expect the number of a column."""
        return check_classes(labels, rows.shape[1])

    def looks_like_probabilities(self, logits: Tensor) -> bool:
        """Return whether every row sums to 1, or all values are in [0, 1] and reach to both ends, as sigmoids do."""
        if within_unit(logits) and float(logits.min()) < LEAST_SURE and float(logits.max()) > 1 - LEAST_SURE:
            return True
        gaps = (logits.double().sum(-1) - 1).abs()
        tolerance = max(PROBABILITY_TOLERANCE, torch.finfo(logits.dtype).eps)
        return bool(len(logits) and (logits >= 0).all() and (gaps <= tolerance).all())


class GraphClassification(Categorical):
    """One class per graph from logits ``(G, C)``; D* is KL(reference || logits).

    Args:
        target_class: the class that loss and target are about; the predicted one where None.
    """

    metric_name = "accuracy"

    def __init__(self, target_class: int | None = None) -> None:
        self.target_class = check_target_class(target_class)

    def explained(self, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return the class to explain ``(G,)``."""
        predicted = self.predict(logits, graphs)
        return predicted if self.target_class is None else torch.full_like(predicted, self.target_class)

    def classes(self, reference: Tensor, graphs: GraphBatch) -> Tensor | None:
        """Return the predicted class."""
        return self.predict(reference, graphs)

    def quality(self, rows: Tensor, labels: Tensor) -> float:
        """Return the accuracy."""
        return float((self.decide(rows) == labels.view(len(rows))).to(torch.float64).mean())

    def check_columns(self, logits: Tensor) -> str | None:
        """Expect a column per class, also for the class to explain."""
        return super().check_columns(logits) or check_target_column(self.target_class, logits)


class NodeClassification(GraphClassification):
    """One class per graph, that of its target node; the model returns logits ``(N, C)`` of all nodes.

    For the nodes of one big graph see :func:`~attribench.neighbourhoods`. The graph attribute
    ``target``, ``(G,)`` int64, numbers the target among the nodes of its graph. All else is as for classes of graphs.
    """

    row_level = "node"

    def select(self, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return the rows of the target nodes ``(G, C)``."""
        return logits[graphs.node_ptr[:-1] + graphs["target"]]

    def check_logits(self, logits: Any, graphs: GraphBatch) -> str | None:
        """Expect a row per node, and a target node in every graph."""
        return check_nodes(graphs, "target", ()) or super().check_logits(logits, graphs)

"""What a model's output means: how predictions, losses and divergences are computed, one figure per graph."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from .graphs import GraphBatch


class Output(ABC):
    """Meaning of a model's raw output. Everything is reduced to one figure per graph and never across graphs."""

    metric_name: str

    @abstractmethod
    def predict(self, logits: Tensor) -> Tensor:
        """Return the predictions, one per unit of output."""

    @abstractmethod
    def divergence(self, reference: Tensor, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return D* of Eq. 5, ``(G,)`` in nats: how far ``logits`` are from the original model's ``reference``."""

    @abstractmethod
    def loss(self, prediction: Tensor, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return the negative log-likelihood ``(G,)`` of ``prediction``, in nats."""

    @abstractmethod
    def target(self, prediction: Tensor, logits: Tensor, graphs: GraphBatch, kind: str) -> Tensor:
        """Return the scalar ``(G,)`` that gradients explain: ``logit`` or ``probability`` of ``prediction``."""

    @abstractmethod
    def unchanged(self, reference: Tensor, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return ``(G,)`` bool: are all predictions of a graph those of the ``reference`` output?"""

    @abstractmethod
    def classes(self, reference: Tensor, graphs: GraphBatch) -> Tensor:
        """Return ``(G,)`` int64: the class by which figures are broken down."""

    @abstractmethod
    def metric(self, logits: Tensor, labels: Tensor) -> float:
        """Return the task's metric in [0, 1]."""


class GraphClassification(Output):
    """One class per graph from logits ``(G, C)``; D* is KL(reference || logits)."""

    metric_name = "accuracy"

    def predict(self, logits: Tensor) -> Tensor:
        """Return the most probable class ``(G,)``."""
        return logits.argmax(-1)

    def divergence(self, reference: Tensor, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return KL(softmax(reference) || softmax(logits)) ``(G,)`` in nats."""
        return F.kl_div(logits.log_softmax(-1), reference.log_softmax(-1), reduction="none", log_target=True).sum(-1)

    def loss(self, prediction: Tensor, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return the cross-entropy ``(G,)``."""
        return F.cross_entropy(logits, prediction, reduction="none")

    def target(self, prediction: Tensor, logits: Tensor, graphs: GraphBatch, kind: str) -> Tensor:
        """Return the predicted class's logit or probability ``(G,)``."""
        values = {"logit": logits, "probability": logits.softmax(-1)}[kind]
        return values.gather(-1, prediction[:, None])[:, 0]

    def unchanged(self, reference: Tensor, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return whether the predicted class stays ``(G,)``."""
        return self.predict(reference) == self.predict(logits)

    def classes(self, reference: Tensor, graphs: GraphBatch) -> Tensor:
        """Return the predicted class."""
        return self.predict(reference)

    def metric(self, logits: Tensor, labels: Tensor) -> float:
        """Return the accuracy."""
        return float((self.predict(logits) == labels).to(torch.float64).mean())


class NodeClassification(Output):
    """One class per node from logits ``(N, C)``, of which class 0 is "none"; all nodes of a graph are one prediction.

    D* is the mean over a graph's nodes of KL(reference || logits), so that a tolerance means the same for short graphs
    and long ones; the loss is the sum, the negative log-likelihood of the whole prediction.
    """

    metric_name = "F1"

    def predict(self, logits: Tensor) -> Tensor:
        """Return the most probable class of every node ``(N,)``."""
        return logits.argmax(-1)

    def divergence(self, reference: Tensor, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return the mean over nodes of KL(softmax(reference) || softmax(logits)) ``(G,)`` in nats."""
        kl = F.kl_div(logits.log_softmax(-1), reference.log_softmax(-1), reduction="none", log_target=True).sum(-1)
        return _sum(kl, graphs) / graphs.num_nodes_per_graph.clamp(min=1)

    def loss(self, prediction: Tensor, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return the sum over nodes of the cross-entropy ``(G,)``."""
        return _sum(F.cross_entropy(logits, prediction, reduction="none"), graphs)

    def target(self, prediction: Tensor, logits: Tensor, graphs: GraphBatch, kind: str) -> Tensor:
        """Return the sum over nodes of the predicted class's logit or probability ``(G,)``."""
        values = {"logit": logits, "probability": logits.softmax(-1)}[kind]
        return _sum(values.gather(-1, prediction[:, None])[:, 0], graphs)

    def unchanged(self, reference: Tensor, logits: Tensor, graphs: GraphBatch) -> Tensor:
        """Return whether the classes of all nodes stay ``(G,)``."""
        return _sum((self.predict(reference) != self.predict(logits)).long(), graphs) == 0

    def classes(self, reference: Tensor, graphs: GraphBatch) -> Tensor:
        """Return whether any node has a class other than "none" (0 or 1)."""
        return (_sum((self.predict(reference) > 0).long(), graphs) > 0).long()

    def metric(self, logits: Tensor, labels: Tensor) -> float:
        """Return micro F1 over nodes, without class 0; 0 where nothing is predicted or there."""
        predicted = self.predict(logits)
        right = int(((predicted == labels) & (labels > 0)).sum())
        return 2 * right / max(1, int((predicted > 0).sum()) + int((labels > 0).sum()))


def _sum(values: Tensor, graphs: GraphBatch) -> Tensor:
    """Sum ``(N,)`` values of nodes to ``(G,)``."""
    return values.new_zeros(graphs.num_graphs).index_add(0, graphs.batch, values)

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
    def classes(self, reference: Tensor) -> Tensor:
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

    def classes(self, reference: Tensor) -> Tensor:
        """Return the predicted class."""
        return self.predict(reference)

    def metric(self, logits: Tensor, labels: Tensor) -> float:
        """Return the accuracy."""
        return float((self.predict(logits) == labels).to(torch.float64).mean())

"""One class for every node, all of a graph's together being one prediction: labels of a sequence."""

from __future__ import annotations

from torch import Tensor

from .graphs import GraphBatch
from .output import Categorical
from .output_checks import check_classes


class SequenceLabelling(Categorical):
    """One class per node from logits ``(N, C)``, of which class 0 is "none"; all nodes of a graph are one prediction.

    D* is the mean over a graph's nodes of KL(reference || logits), so that a tolerance means the same for short graphs
    and long ones; the loss is the sum, the negative log-likelihood of the whole prediction. The metric is micro F1 over
    nodes, without class 0.

    Args:
        unseen: whether a label may be C, one more than the last column: a class that the model does not know and
            that counts as missed.
    """

    metric_name = "F1"
    level = "node"

    def __init__(self, unseen: bool = False) -> None:
        self.unseen = unseen

    def classes(self, reference: Tensor, graphs: GraphBatch) -> Tensor | None:
        """Return whether any node has a class other than "none" (0 or 1)."""
        return (self._sum((self.predict(reference, graphs) > 0).long(), graphs) > 0).long()

    def says(self, rows: Tensor) -> Tensor:
        """Return whether a class other than "none" is predicted."""
        return self.decide(rows) > 0

    def quality(self, rows: Tensor, labels: Tensor) -> float:
        """Return micro F1 over nodes, without class 0; 0 where nothing is predicted or there."""
        predicted, labels = self.decide(rows), labels.view(len(rows))
        right = int(((predicted == labels) & (labels > 0)).sum())
        return 2 * right / max(1, int((predicted > 0).sum()) + int((labels > 0).sum()))

    def check_values(self, labels: Tensor, rows: Tensor) -> str | None:
        """Expect the number of a column, or one more where ``unseen``."""
        return check_classes(labels, rows.shape[1] + self.unseen)

"""The toy with a scalar sigmoid gate on every message (Marcheggiani & Titov 2017), trained as the toy is.

The gate-value heuristic meets the toy's gold standard here: the data, the gold and its audit are the toy's.
"""

from __future__ import annotations

from torch import Tensor, nn

from attribench.plugins.registry import TASKS
from attribench.plugins.task import Task

from .toy import RGCNLayer, Toy, ToyModel


class Gate(nn.Module):
    """sigmoid(w_c . h_u + b_c), one scalar per message, with parameters per relation."""

    def __init__(self, width: int, num_relations: int) -> None:
        super().__init__()
        self.weight = nn.Linear(width, num_relations)

    def forward(self, x_j: Tensor, edge_type: Tensor) -> Tensor:
        """Return gates ``(E, 1)``."""
        logits: Tensor = self.weight(x_j)
        return logits.gather(1, edge_type[:, None]).sigmoid()


class GatedRGCNLayer(RGCNLayer):
    """R-GCN whose messages are multiplied by a gate."""

    def __init__(self, width: int, num_relations: int) -> None:
        super().__init__(width, num_relations)
        self.gate = Gate(width, num_relations)

    def message(self, x_j: Tensor, edge_type: Tensor) -> Tensor:
        """Return gated messages ``(E, D)``."""
        gate: Tensor = self.gate(x_j, edge_type)
        return gate * super().message(x_j, edge_type)


class GatedToyModel(ToyModel):
    """The toy's model with gated layers."""

    layer = GatedRGCNLayer

    def gate_modules(self) -> list[nn.Module]:
        """Return each layer's gate."""
        return [layer.gate for layer in self.layers if isinstance(layer, GatedRGCNLayer)]


@TASKS.register
class ToyGated(Toy):
    """Star graphs as in `toy`, for a model with a sigmoid gate on every message. Gold: the edges of both colours."""

    name = "toy-gated"
    model = GatedToyModel

    def card(self) -> str:
        """Return the docstring; the study is of the toy."""
        return Task.card(self)

    def published(self) -> dict[str, dict[str, float]]:
        """Return nothing: the paper has no such experiment."""
        return {}

"""The path of two hops in a model whose gates are large where messages are zero, and small where they count.

Data, algorithm and gold are those of `two-hop`, whose docstring has the proof. Every message is multiplied by a
scalar gate, as in Marcheggiani & Titov (2017): 0.1 for edges of the layer's colour, whose values are ten times as
large; 0.9 for grey edges, whose values are zero, chatter included; 0.5 for edges of the other colour, which send
chatter alone. The signals that arrive are those of `two-hop`, and so is the gold; a grey message is zero and matters
to nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attribench.plugins.registry import TASKS

from ._layered import GatedConv, LayeredConv
from .two_hop import GREY, TwoHop

COUNTS, DECOY, OTHER = 0.1, 0.9, 0.5
"""Gates on edges of the layer's colour, on grey edges, and on the rest."""


class TypeGate(nn.Module):
    """One gate for every edge type."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(values.logit())

    def forward(self, edge_type: Tensor) -> Tensor:
        """Return gates ``(E, 1)``."""
        return self.logits.sigmoid()[edge_type, None]


@TASKS.register
class DecoyGates(TwoHop):
    """Two hops, with gates that are large on messages of zero and small on those that count. Gold as in `two-hop`."""

    name = "decoy-gates"

    def convolution(self, k: int, size: int) -> LayeredConv:
        """Return a convolution with gates."""
        gates = torch.full((len(self.edge_types),), OTHER)
        gates[k % 2], gates[GREY] = COUNTS, DECOY
        layer = GatedConv(size, size, len(self.edge_types), aggr="add", bias=False)
        layer.gate = TypeGate(gates)
        return layer

    def set_weights(self, layer: LayeredConv, k: int, width: int) -> None:
        """Divide by the gates, and silence grey edges."""
        super().set_weights(layer, k, width)
        layer.weight /= layer.gate.logits.sigmoid()[:, None, None]
        layer.weight[GREY] = 0

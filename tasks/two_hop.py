"""Is there a path query -red-> . -blue-> target? With more layers, a path of alternating colours, red first.

**Algorithm.** The query starts with signal 1. Layer k passes signals along red edges where k is odd (1, 3, ...) and
along blue edges where k is even, and along no other; so after layer k a node's signal counts the walks of k
alternating steps from the query to it, and the target's, compared with 1/2, says whether there is one of length K.

**Gold.** The messages of layer k over edges of its colour whose source has a signal; in the last layer those into the
target, in the last but one those into other nodes. *Others are not used*: a message without signal adds nothing;
after the last layer only the target is read; the target has no edge to itself, so what enters it in the last layer
but one is lost. *These are used*: the edges out of the message's target may be any that the task draws, so in some
graph they continue the walk with the right colours to the target over nodes of their own (or need not, in the last
layer). In this layer and the later ones, replace all other messages by zero, except those of that walk; earlier
layers stay, so the same message is sent. The answer now hangs on it: yes with it, no without. A red edge is never
used in an even layer, nor a blue one in an odd layer.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from attribench.plugins.registry import TASKS

from ._layered import START, TARGET, Drawn, Layered, marks, random_graphs

RED, BLUE, GREY = 0, 1, 2


@TASKS.register
class TwoHop(Layered):
    """Is there a path -red-> . -blue-> from the query to the target? Gold: red in layer 1, blue in layer 2."""

    name = "two-hop"
    edge_types = ("red", "blue", "grey")

    def draw(self, count: int, draw: torch.Generator) -> Drawn:
        """Draw graphs; a path of random colours is planted in all of them, of the right colours in four of ten."""
        depth = self.config.depth
        types, num_nodes = random_graphs(self.config, count, draw, (RED, BLUE, GREY))
        right = torch.rand(count, generator=draw) < 0.4
        nodes = [START, *range(2, depth + 1), TARGET]
        for k, (u, v) in enumerate(pairwise(nodes)):
            colour = torch.randint(3, (count,), generator=draw)
            types[:, u, v] = torch.where(right, k % 2, colour)
        nodes_most = self.config.sizes[1]
        return Drawn(types, marks(count, nodes_most, START), marks(count, nodes_most, TARGET), num_nodes)

    def passes(self, layer: int) -> Tensor:
        """Pass the signal along the layer's colour."""
        weights = torch.zeros(3, 2, 1)
        weights[layer % 2, 0] = 1
        return weights

    def label(self, drawn: Drawn) -> Tensor:
        """Multiply adjacency matrices."""
        walks = drawn.start.transpose(1, 2).double()  # (G, 1, N)
        for k in range(self.config.depth):
            walks = walks @ (drawn.types == k % 2).double()
        return walks[:, 0, TARGET] > 0

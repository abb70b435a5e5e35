"""The toy at depth 2: among the edges that enter the neighbours of a centre, have more colour x or colour y?

**Algorithm.** All nodes carry the query <x, y>. In layer 1 an edge of colour x sends (1, 0), one of colour y (0, 1),
and every other (0, 0); the following layers send the source's counts along all edges. The centre's counts after layer
K are those of the walks of length K that end in it, by the colour of their first edge; the answer is whether the
first count is larger.

**Gold.** In layer 1 the messages over edges of colour x or y, later those whose two counts differ; in the last layer
those into the centre, in the last but one those into other nodes. *Others are not used*: a message with equal counts
adds the same to both sides of the comparison, in the centre as on the way, since all that follows is a sum; after the
last layer only the centre is read; it has no edge to itself, so what enters it in the last layer but one is lost.
*These are used*: in some graph there is a walk from the message's target to the centre over nodes of their own, of
the length that is left. In this layer and the later ones, replace all other messages by zero, except those of that
walk; earlier layers stay, so the same message is sent. The difference of the counts at the centre is now the
message's own. If it is positive, the answer is yes, and no without it. If it is negative, take a graph with a second
such walk, whose messages are kept too and which makes the difference without this message 1: with the message the
answer is no, without it yes.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from attribench.plugins.method import config
from attribench.plugins.registry import TASKS

from ._layered import TARGET, Drawn, Layered, LayeredConfig, marks, random_graphs

COLOURS = 4


@config
class NeighbourCountConfig(LayeredConfig):
    """Options of :class:`LayeredConfig`; denser by default, so that there is something to count."""

    density: float = Field(2.0, gt=0, description="mean number of random edges out of a node")


@TASKS.register
class NeighbourCount(Layered):
    """Do more edges into a centre's neighbours have colour x than colour y? Gold: these, then what differs."""

    name = "neighbour-count"
    Config = NeighbourCountConfig
    edge_types = tuple(f"colour {c}" for c in range(COLOURS))
    read = (1.0, -1.0)

    def draw(self, count: int, draw: torch.Generator) -> Drawn:
        """Draw graphs with two neighbours of the centre, each with an edge into it, and a query."""
        types, num_nodes = random_graphs(self.config, count, draw, tuple(range(COLOURS)))
        for u, v in ((2, TARGET), (3, TARGET), (0, 2), (0, 3)):
            types[:, u, v] = torch.randint(COLOURS, (count,), generator=draw)
        x = torch.randint(COLOURS, (count,), generator=draw)
        y = (x + torch.randint(1, COLOURS, (count,), generator=draw)) % COLOURS
        query = F.one_hot(torch.stack([x, y], 1), COLOURS).flatten(1).float()
        most = self.config.sizes[1]
        roles = torch.cat([marks(count, most, TARGET), query[:, None].expand(-1, most, -1)], dim=2)
        return Drawn(types, torch.zeros(count, most, 2), roles, num_nodes)

    def passes(self, layer: int) -> Tensor:
        """Compare the colour with the query in layer 1; pass the counts on in the others."""
        weights = torch.zeros(COLOURS, 2 + 1 + 2 * COLOURS, 2)
        for c in range(COLOURS):
            if layer == 0:
                weights[c, 3 + c, 0] = weights[c, 3 + COLOURS + c, 1] = 1
            else:
                weights[c, 0, 0] = weights[c, 1, 1] = 1
        return weights

    def label(self, drawn: Drawn) -> Tensor:
        """Count walks backwards from the centre."""
        walks = torch.zeros(*drawn.types.shape[:2], 1, dtype=torch.float64)
        walks[:, TARGET] = 1
        for _ in range(self.config.depth - 1):
            walks = (drawn.types >= 0).double() @ walks  # (G, N, 1): walks from every node to the centre
        query = drawn.roles[:, 0, 1:].view(-1, 2, COLOURS).argmax(2)
        counts = torch.stack([((drawn.types == q[:, None, None]).double() @ walks).sum((1, 2)) for q in query.T])
        return counts[0] > counts[1]

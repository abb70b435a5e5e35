"""A saturating OR over many sufficient edges: removing one changes nothing, and yet all of them are used.

**Data.** In every graph, K levels of nodes are fully linked, each level to the next and the last to the target. In
half of the graphs the nodes of the first level are lit, so that every path over the levels suffices; in the others
either none is lit, or none of the edges into the target is a link. Random edges of all types join all nodes.

**Algorithm.** Lit nodes begin with signal 1. Every layer passes signals along links, sums them, and counts a sum
above 1 as 1. The target's signal after layer K says whether a lit node reaches it over K links.

**Gold.** The messages over links whose source has a signal; in the last layer those into the target, in the last but
one those into other nodes. *Others are not used*: a message without signal adds nothing; after the last layer only
the target is read, and it has no edge to itself. *These are used*: in some graph links continue from the message's
target to the target over nodes of their own. In this layer and the later ones, replace all other messages but theirs
by zero; earlier layers stay, so the same message is sent. The OR now hangs on it. Where the others are kept it
changes nothing: a search for the smallest sufficient set keeps one path of many.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from attribench.plugins.method import config
from attribench.plugins.registry import TASKS

from ._layered import TARGET, Drawn, Layered, LayeredConfig, marks, random_graphs

LINK, PLAIN, DASHED = 0, 1, 2


@config
class AnyOfConfig(LayeredConfig):
    """Options of :class:`LayeredConfig`, and how many edges suffice."""

    usual: ClassVar[int] = 10
    min_nodes: int | None = Field(
        None, ge=4, le=1000, description="fewest nodes of a graph; None: 10, or sufficient * depth + 1"
    )
    sufficient: int = Field(3, ge=2, description="nodes of every level: edges that suffice into each of the next")

    def fewest(self) -> int:
        """Return the number of nodes of all levels and the target."""
        return max(super().fewest(), self.sufficient * self.depth + 1)


@TASKS.register
class AnyOf(Layered):
    """Does any of many lit nodes reach the target over links? Gold: every message that would do alone."""

    name = "any-of"
    Config = AnyOfConfig
    edge_types = ("link", "plain", "dashed")
    saturates: ClassVar[bool] = True

    def draw(self, count: int, draw: torch.Generator) -> Drawn:
        """Draw graphs, half of them with sufficient paths."""
        config = self.config
        types, num_nodes = random_graphs(config, count, draw, (LINK, PLAIN, DASHED))
        nodes = [0, *range(2, config.depth * config.sufficient + 1)]
        levels = [nodes[i :: config.depth] for i in range(config.depth)] + [[TARGET]]
        for sources, targets in pairwise(levels):
            for u in sources:
                types[:, u, targets] = LINK
        # 0 and 1: positive; 2: no node is lit; 3: no edge into the target is a link
        kind = torch.randint(4, (count,), generator=draw)
        into = types[:, :, TARGET]
        other = torch.randint(PLAIN, DASHED + 1, into.shape, generator=draw)
        types[:, :, TARGET] = torch.where((kind == 3)[:, None] & (into == LINK), other, into)
        lit = marks(count, config.sizes[1], *levels[0]).sum(2, keepdim=True) * (kind != 2)[:, None, None]
        return Drawn(types, lit, marks(count, config.sizes[1], TARGET), num_nodes)

    def passes(self, layer: int) -> Tensor:
        """Pass the signal along links."""
        weights = torch.zeros(3, 2, 1)
        weights[LINK, 0] = 1
        return weights

    def label(self, drawn: Drawn) -> Tensor:
        """Multiply adjacency matrices."""
        walks = drawn.start.transpose(1, 2).double()
        for _ in range(self.config.depth):
            walks = walks @ (drawn.types == LINK).double()
        return walks[:, 0, TARGET] > 0

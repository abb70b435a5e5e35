"""Is a marked path of K edges from the start to the target whole? One layer for every edge of the path.

**Data.** Every graph has a path of K edges over nodes of its own from the start to the target. In half of the graphs
all its edges are marked; in the others one of them, at random, is not. Random edges that are not marked join all
nodes, and marked ones leave nodes off the path only, whose signal is always 0.

**Algorithm.** The start begins with signal 1, which every layer passes along marked edges: it is one step further
along the path after every layer, until an edge is not marked. The target's signal after layer K, compared with 1/2,
is the answer.

**Gold.** In layer i the i-th edge of the path, as long as the path is whole up to and with it. *Others are not used*:
only the i-th node of the path has a signal before layer i, and its only marked edge is the path's; all other messages
are without signal. *These are used*: in the graph whose path is whole, and which is equal otherwise, the signal
reaches the target over this message alone, and the answer changes when it is replaced. Edge i is never used in
another layer.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor

from attribench.plugins.method import config
from attribench.plugins.registry import TASKS

from ._layered import START, TARGET, Drawn, Layered, LayeredConfig, marks, random_graphs

MARKED, PLAIN, DASHED = 0, 1, 2


@config
class RelayConfig(LayeredConfig):
    """Options of :class:`LayeredConfig`; the path is 3 edges long by default."""

    depth: int = Field(3, ge=2, le=10, description="number of layers K, and of edges of the path")


@TASKS.register
class Relay(Layered):
    """Is the marked path of K edges from start to target whole? Gold: edge i of the path in layer i alone."""

    name = "relay"
    Config = RelayConfig
    edge_types = ("marked", "plain", "dashed")

    def draw(self, count: int, draw: torch.Generator) -> Drawn:
        """Draw graphs with a path, whole or broken."""
        depth = self.config.depth
        types, num_nodes = random_graphs(self.config, count, draw, (MARKED, PLAIN, DASHED))
        nodes = [START, *range(2, depth + 1), TARGET]
        path = types[:, nodes]
        types[:, nodes] = torch.where(path == MARKED, PLAIN, path)
        broken = torch.where(
            torch.rand(count, generator=draw) < 0.5, torch.randint(depth, (count,), generator=draw), depth
        )
        other = torch.randint(PLAIN, DASHED + 1, (count,), generator=draw)
        for k, (u, v) in enumerate(pairwise(nodes)):
            types[:, u, v] = torch.where(broken == k, other, MARKED)
        nodes_most = self.config.sizes[1]
        return Drawn(types, marks(count, nodes_most, START), marks(count, nodes_most, TARGET), num_nodes)

    def passes(self, layer: int) -> Tensor:
        """Pass the signal along marked edges."""
        weights = torch.zeros(3, 2, 1)
        weights[MARKED, 0] = 1
        return weights

    def label(self, drawn: Drawn) -> Tensor:
        """Look at the path."""
        nodes = [START, *range(2, self.config.depth + 1), TARGET]
        return (drawn.types[:, nodes[:-1], nodes[1:]] == MARKED).all(1)

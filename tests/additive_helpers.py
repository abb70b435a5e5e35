"""A model whose every figure can be worked out by hand: its logit is the sum of weights that edges carry."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from helpers import bare_batch
from torch import Tensor
from torch_geometric.nn import MessagePassing

from attribench.base.limits import MAX_EDGES
from attribench.model.gates import Gates, Stream
from attribench.model.graphs import GraphBatch
from attribench.model.model import GraphModel


class Weighted(MessagePassing):
    """Sends the weight of every edge times the state of its source."""

    def __init__(self) -> None:
        super().__init__(aggr="add")

    def forward(self, x: Tensor, edge_index: Tensor, weight: Tensor) -> Tensor:
        out: Tensor = self.propagate(edge_index, x=x, weight=weight)
        return out

    def message(self, x_j: Tensor, weight: Tensor) -> Tensor:
        return weight[:, None] * x_j


class Additive(GraphModel):
    """Layers side by side that all read 1: a graph's logits are 0 and the sum of its messages, the edges' weights.

    Args:
        num_layers: L; layer k sends column k of the edge attribute ``weight`` ``(E, L)``.
        bias: what is added to the second logit.
        columns: 2, or 1 for the sum alone.
    """

    def __init__(self, num_layers: int, bias: float = 0, columns: int = 2) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(Weighted() for _ in range(num_layers))
        self.bias = bias
        self.columns = columns

    def decode(self, graphs: GraphBatch, state: object) -> Tensor:
        x, weight = graphs["x"], graphs["weight"]
        received = sum(layer(x, graphs.edge_index, weight[:, k]) for k, layer in enumerate(self.layers))
        assert isinstance(received, Tensor)
        total = x.new_zeros(graphs.num_graphs, 1).index_add(0, graphs.batch, received) + self.bias
        return total if self.columns == 1 else torch.cat([torch.zeros_like(total), total], dim=1)


def weighted_batch(weights: Sequence[Sequence[Sequence[float]]]) -> GraphBatch:
    """Graphs of two nodes whose edges run from the first to the second, each with its weights ``(L,)``."""
    num_layers = max(len(edge) for graph in weights for edge in graph)
    graphs = bare_batch([len(graph) for graph in weights])
    flat = torch.tensor([edge for graph in weights for edge in graph], dtype=torch.float64).view(-1, num_layers)
    return replace(graphs, node={"x": torch.ones(graphs.num_nodes, 1, dtype=torch.float64)}, edge={"weight": flat})


def random_weights(counts: Sequence[int], num_layers: int, seed: int = 0) -> GraphBatch:
    """Graphs whose edges have random weights, some of them negative."""
    draw = torch.Generator().manual_seed(seed)
    return weighted_batch([torch.randn(count, num_layers, generator=draw).tolist() for count in counts])


@contextmanager
def streaming(model: GraphModel, graphs: GraphBatch, max_edges: int = MAX_EDGES) -> Iterator[Stream]:
    """Enter the model's gates and record the batch."""
    with Gates(model) as gates:
        yield gates.stream(graphs, max_edges)

"""Small graphs and networks that several test files share."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import global_add_pool

from attribench.model.graphs import GraphBatch

WIDTH = 4


def random_data(nodes: int, edges: int, draw: torch.Generator) -> Data:
    """A graph without self-loops; edges may repeat."""
    source = torch.randint(nodes, (edges,), generator=draw)
    target = (source + torch.randint(1, nodes, (edges,), generator=draw)) % nodes if edges else source
    return Data(
        x=torch.randn(nodes, WIDTH, generator=draw),
        edge_index=torch.stack([source, target]),
        edge_type=torch.randint(3, (edges,), generator=draw),
        edge_attr=torch.randn(edges, 2, generator=draw),
        y=torch.randint(2, (1,), generator=draw),
    )


def random_data_list(sizes: Sequence[tuple[int, int]], seed: int = 0) -> list[Data]:
    draw = torch.Generator().manual_seed(seed)
    return [random_data(nodes, edges, draw) for nodes, edges in sizes]


def join(graphs: Sequence[Data]) -> GraphBatch:
    """Join graphs; their keys are 0, 1, 2, ..."""
    batch = GraphBatch.from_data_list(graphs, ["x"], ["edge_type", "edge_attr"], ["y"])
    return replace(batch, graph_key=torch.arange(len(graphs)))


def random_batch(sizes: Sequence[tuple[int, int]] = ((4, 7), (2, 1), (5, 9)), seed: int = 0) -> GraphBatch:
    return join(random_data_list(sizes, seed))


def bare_batch(edge_counts: Sequence[int]) -> GraphBatch:
    """Graphs of two nodes whose edges all run from the first to the second: for what only counts edges."""
    graphs = [Data(x=torch.zeros(2, 1), edge_index=torch.tensor([[0], [1]]).repeat(1, count)) for count in edge_counts]
    return replace(GraphBatch.from_data_list(graphs), graph_key=torch.arange(len(graphs)))


class Network(nn.Module):
    """Layers with tanh, optionally residual, that may be given an edge tensor; then a sum over nodes and logits."""

    def __init__(self, layers: Sequence[nn.Module], residual: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.residual = residual
        self.readout = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, *edge_tensors: Tensor) -> Any:
        for layer in self.layers:
            update = layer(x, edge_index, *edge_tensors).tanh()
            x = x + update if self.residual else update
        return self.readout(global_add_pool(x, batch))

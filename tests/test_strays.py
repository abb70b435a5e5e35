"""Messages out of the gates' reach are found: layers that are no submodules, and sums that no layer makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_examination import Model, pool, problem
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import GATConv, GraphConv, SimpleConv
from torch_geometric.utils import add_self_loops, degree, scatter, to_dense_batch

from attribench import GraphBatch, GraphModel, UnsupportedModelError


class InAList(Model):
    def __init__(self) -> None:
        super().__init__()
        self.more = [GraphConv(8, 8)]

    def between(self, h: Tensor) -> Tensor:
        return h.tanh()

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = self.more[0](self.first(graphs["x"], graphs.edge_index), graphs.edge_index)
        return self.read(self.second(h, graphs.edge_index), graphs)


class InADict(Model):
    def __init__(self) -> None:
        super().__init__()
        self.heads = {"a": nn.Linear(8, 2)}

    def read(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        out: Tensor = self.heads["a"](pool(h, graphs))
        return out


OUTSIDE = GATConv(8, 8, add_self_loops=False)


class Elsewhere(Model):
    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = OUTSIDE(self.first(graphs["x"], graphs.edge_index), graphs.edge_index)
        return self.read(h, graphs)


class ByPropagate(InAList):
    """Calls the method that ``forward()`` would call."""

    def __init__(self) -> None:
        super().__init__()
        self.more = [SimpleConv()]

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = self.first(graphs["x"], graphs.edge_index)
        h = self.more[0].propagate(graphs.edge_index, x=(h, h), edge_weight=None)
        return self.read(self.second(h, graphs.edge_index), graphs)


class ByForward(InAList):
    """Calls ``forward()`` by name, so that no hook of a module runs."""

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = self.more[0].forward(self.first(graphs["x"], graphs.edge_index), graphs.edge_index)
        return self.read(self.second(h, graphs.edge_index), graphs)


class InEncode(InAList):
    def encode(self, graphs: GraphBatch) -> Any:
        return self.more[0](F.pad(graphs["x"], (0, 4)), graphs.edge_index)

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        return self.read(self.second(state, graphs.edge_index), graphs)


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (InAList, "GraphConv"),
        (InADict, "Linear"),
        (Elsewhere, "GATConv"),
        (InEncode, "GraphConv"),
        (ByPropagate, "SimpleConv"),
        (ByForward, "GraphConv"),
    ],
)
def test_layers_that_are_no_submodules_are_refused(make: Callable[[], GraphModel], layer: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{layer} runs and is none, .* torch.nn.ModuleList"):
        _ = problem(make()).findings


class ByHand(Model):
    """Sums neighbours itself, beside two layers."""

    def neighbours(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        source, target = graphs.edge_index
        return torch.zeros_like(h).index_add(0, target, h[source])

    def between(self, h: Tensor) -> Tensor:
        return h.tanh()

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = self.first(graphs["x"], graphs.edge_index).tanh()
        h = h + self.neighbours(h, graphs)
        return self.read(self.second(h, graphs.edge_index).tanh(), graphs)


class ByScatter(ByHand):
    def neighbours(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        out: Tensor = scatter(h[graphs.edge_index[0]], graphs.edge_index[1], dim_size=len(h), reduce="max")
        return out


class WithLoops(ByHand):
    def neighbours(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        source, target = add_self_loops(graphs.edge_index, num_nodes=len(h))[0]
        return torch.zeros_like(h).scatter_add_(0, target[:, None].expand(-1, h.shape[1]), h[source])


class BySparse(ByHand):
    def neighbours(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        ones = torch.ones(graphs.num_edges)
        ends = graphs.edge_index.flip(0)
        return torch.sparse_coo_tensor(ends, ones, (len(h), len(h)), check_invariants=True) @ h


class ByIndexPut(ByHand):
    def neighbours(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        source, target = graphs.edge_index
        return torch.zeros_like(h).index_put((target,), h[source], accumulate=True)


class OfRawFeatures(Model):
    """Sums the features before any layer."""

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        source, target = graphs.edge_index
        x = graphs["x"] + torch.zeros_like(graphs["x"]).index_add(0, target, graphs["x"][source])
        h = self.first(x, graphs.edge_index).tanh()
        return self.read(self.second(h, graphs.edge_index).tanh(), graphs)


class InAggregate(GraphConv):
    """Sums the neighbours' states a second time, beside the messages."""

    def aggregate(self, inputs: Tensor, index: Tensor, x_j: Tensor, dim_size: int | None = None) -> Tensor:
        out: Tensor = super().aggregate(inputs + x_j, index, dim_size=dim_size)
        return out


class InItsForward(GraphConv):
    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        out: Tensor = super().forward(x, edge_index)
        neighbours: Tensor = scatter(x[edge_index[0]], edge_index[1], dim_size=len(x))
        return out + neighbours


class BesideItsMessages(Model):
    layer = InAggregate

    def __init__(self) -> None:
        super().__init__()
        self.second = self.layer(8, 8)


class InForward(BesideItsMessages):
    layer = InItsForward


class Masked(ByHand):
    """Attends to neighbours alone."""

    def neighbours(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        apart = torch.ones(len(h), len(h), dtype=torch.bool)
        apart[graphs.edge_index[1], graphs.edge_index[0]] = False
        apart.fill_diagonal_(False)
        out: Tensor = F.scaled_dot_product_attention(h, h, h, ~apart)
        return out


class ReadsEdges(Model):
    """Pools over edges."""

    def read(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        source, target = graphs.edge_index
        along = (h[source] * h[target]).tanh()
        out: Tensor = self.readout(scatter(along, graphs.edge_graph, dim_size=graphs.num_graphs))
        return out


class OfAttributes(Model):
    """Sums what stands on the edges into a node."""

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        size, red = graphs.num_nodes, graphs["red"][:, None].to(graphs["x"])
        h = self.first(graphs["x"] + scatter(red, graphs.edge_index[1], dim_size=size), graphs.edge_index)
        return self.read(self.second(h.tanh(), graphs.edge_index), graphs)


class ReadsAttributes(Model):
    """Says of a graph what stands on its edges."""

    def read(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        red = graphs["red"][:, None].to(h)
        out: Tensor = super().read(h, graphs) + scatter(red, graphs.edge_graph, dim_size=graphs.num_graphs)
        return out


BESIDE = [
    OfAttributes, ReadsAttributes,
    ByHand, ByScatter, WithLoops, BySparse, ByIndexPut, OfRawFeatures, BesideItsMessages, InForward, Masked, ReadsEdges,
]  # fmt: skip


@pytest.mark.parametrize("make", BESIDE)
def test_sums_over_edges_outside_of_layers_are_refused(make: Callable[[], GraphModel]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"nothing to go over edges but .*: move into message\(\)"):
        _ = problem(make()).findings


class Degrees(Model):
    """Reads how many edges a node has, which is no message: nothing that a node says goes over an edge."""

    def between(self, h: Tensor) -> Tensor:
        return h.tanh()

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        size = degree(graphs.edge_index[1], graphs.num_nodes)[:, None]
        h = self.first(graphs["x"] / (1 + size), graphs.edge_index).tanh()
        return self.read(self.second(h, graphs.edge_index), graphs)


class CalledForward(Model):
    """Calls layers of its own by ``forward()``; attention has a softmax over edges of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.second = GATConv(8, 8, add_self_loops=False)

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = self.first(graphs["x"], graphs.edge_index).tanh()
        return self.read(self.second.forward(h, graphs.edge_index), graphs)


class Dense(Model):
    """Looks at all nodes of a graph at once; an index for them may look like an end of the edges."""

    def read(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        padded, present = to_dense_batch(h, graphs.batch, batch_size=graphs.num_graphs)
        out: Tensor = self.readout((padded * present[..., None]).sum(1))
        return out


class SparsePooling(Model):
    def read(self, h: Tensor, graphs: GraphBatch) -> Tensor:
        ends = torch.stack([graphs.batch, torch.arange(len(h))])
        ones = torch.ones(len(h))
        pool = torch.sparse_coo_tensor(ends, ones, (graphs.num_graphs, len(h)), check_invariants=True)
        out: Tensor = self.readout(torch.sparse.mm(pool, h))
        return out


class KnownStructure(Model):
    """Counts two-step walks before any layer."""

    def encode(self, graphs: GraphBatch) -> Any:
        adjacency = torch.zeros(graphs.num_nodes, graphs.num_nodes)
        adjacency[graphs.edge_index[0], graphs.edge_index[1]] = 1
        return torch.cat([graphs["x"][:, :3], (adjacency @ adjacency).diag()[:, None]], 1)

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = self.first(state, graphs.edge_index).tanh()
        return self.read(self.second(h, graphs.edge_index).tanh(), graphs)


@pytest.mark.parametrize("make", [Degrees, CalledForward, Dense, SparsePooling, KnownStructure])
def test_what_is_no_message_is_left_alone(make: Callable[[], GraphModel]) -> None:
    tried = problem(make())
    before = {name: p.requires_grad for name, p in tried.model.named_parameters()}
    assert tried.findings.unused == []
    assert before == {name: p.requires_grad for name, p in tried.model.named_parameters()}

"""A fixed list of what people use: each is explained exactly, or refused with the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_geometric.transforms as T
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import (
    GAT,
    GCN,
    GIN,
    PNA,
    ChebConv,
    FastRGCNConv,
    GraphConv,
    GraphNorm,
    GraphSAGE,
    MessagePassing,
    RGCNConv,
    TopKPooling,
    global_add_pool,
)

from attribench import (
    GraphBatch,
    GraphClassification,
    GraphModel,
    Problem,
    Split,
    UserError,
    generator,
)
from attribench.plugins.task import SPLITS

DEGREES = torch.tensor([2, 6, 6, 3, 1])


def random_graphs(name: str, loops: bool = False) -> list[Data]:
    draw = generator("people", name)
    graphs = []
    for _ in range(10):
        source = torch.randint(5, (10,), generator=draw)
        target = (source + 1 + torch.randint(4, (10,), generator=draw)) % 5
        edges = torch.stack([source, source if loops else target])
        weight = torch.rand(10, generator=draw)
        graphs.append(Data(x=torch.randn(5, 4, generator=draw), edge_index=edges, weight=weight))
    return graphs


def splits(change: Callable[[Data], Data] | None = None, loops: bool = False) -> dict[str, Split]:
    made = {}
    for name in SPLITS:
        graphs = [change(data) if change else data for data in random_graphs(name, loops)]
        batch = GraphBatch.from_data_list(graphs, edge=["weight"] if "weight" in graphs[0] else [], name=name)
        made[name] = Split(batch, torch.arange(10) % 2)
    return made


def bare(data: Data) -> Data:
    return Data(x=data.x, edge_index=data.edge_index)


class Readout(GraphModel):
    """Any network for nodes, pooled."""

    def __init__(self, network: nn.Module, weighted: bool = False, batch: bool = False) -> None:
        super().__init__()
        self.network, self.weighted, self.batch = network, weighted, batch

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        more: dict[str, Tensor] = {"edge_weight": graphs["weight"]} if self.weighted else {}
        more |= {"batch": graphs.batch} if self.batch else {}
        h = self.network(graphs["x"], graphs.edge_index, **more)
        out: Tensor = global_add_pool(h, graphs.batch, size=graphs.num_graphs)
        return out


class Relational(GraphModel):
    """Two layers of three relations, told by the edges' weights."""

    def __init__(self, layer: type[RGCNConv], **options: Any) -> None:
        super().__init__()
        self.first, self.second = layer(4, 8, 3, **options), layer(8, 2, 3, **options)

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        relation = (graphs["weight"] * 3).long()
        h = self.first(graphs["x"], graphs.edge_index, relation).tanh()
        out: Tensor = global_add_pool(self.second(h, graphs.edge_index, relation), graphs.batch, size=graphs.num_graphs)
        return out


class Pooling(GraphModel):
    """Top-k pooling between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pool, self.second = GraphConv(4, 8), TopKPooling(8), GraphConv(8, 2)

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = self.first(graphs["x"], graphs.edge_index).tanh()
        h, edges, _, batch, _, _ = self.pool(h, graphs.edge_index, batch=graphs.batch)
        out: Tensor = global_add_pool(self.second(h, edges), batch, size=graphs.num_graphs)
        return out


class LateReadoutPooling(Pooling):
    """The same after the last layer, where it is nobody's business."""

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        h = self.first(graphs["x"], graphs.edge_index).tanh()
        h = torch.cat([h, h[:, :0]], 1)
        pooled, _, _, batch, _, _ = self.pool(h, graphs.edge_index, batch=graphs.batch)
        out: Tensor = global_add_pool(pooled[:, :2], batch, size=graphs.num_graphs)
        return out


class MakesVirtualNodes(Readout):
    """Adds edges in the model."""

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        hub = graphs.node_ptr[:-1][graphs.batch]
        edges = torch.cat([graphs.edge_index, torch.stack([torch.arange(graphs.num_nodes), hub])], 1)
        h = self.network(graphs["x"], edges)
        out: Tensor = global_add_pool(h, graphs.batch, size=graphs.num_graphs)
        return out


def make(build: Callable[[], GraphModel]) -> GraphModel:
    torch.manual_seed(0)
    return build().eval()


def compiled_inside() -> GraphModel:
    return Readout(torch.compile(GCN(4, 8, 2, 2), backend="eager"))  # type: ignore[arg-type]


def compiled_in_place() -> GraphModel:
    model = Readout(GIN(4, 8, 2, 2))
    model.network.compile(backend="eager")
    return model


def hooked() -> GraphModel:
    model = Readout(GIN(4, 8, 2, 2))
    model.network.convs[0].register_message_forward_hook(lambda *_: None)  # type: ignore[union-attr, index]
    return model


Built = Callable[[], GraphModel]
EXACT: dict[str, tuple[Built, dict[str, Split]]] = {
    "GCN": (lambda: Readout(GCN(4, 8, 2, 2)), splits()),
    "GCN with edge weights": (lambda: Readout(GCN(4, 8, 2, 2), weighted=True), splits()),
    "GCN without normalisation": (lambda: Readout(GCN(4, 8, 2, 2, normalize=False)), splits(loops=True)),
    "GIN": (lambda: Readout(GIN(4, 8, 3, 2)), splits()),
    "GIN on self-loops": (lambda: Readout(GIN(4, 8, 2, 2)), splits(loops=True)),
    "GAT": (lambda: Readout(GAT(4, 8, 2, 2, heads=2)), splits()),
    "GATv2": (lambda: Readout(GAT(4, 8, 2, 2, v2=True)), splits()),
    "GraphSAGE": (lambda: Readout(GraphSAGE(4, 8, 2, 2)), splits()),
    "GraphSAGE on self-loops": (lambda: Readout(GraphSAGE(4, 8, 2, 2)), splits(loops=True)),
    "GraphSAGE, maximum": (lambda: Readout(GraphSAGE(4, 8, 2, 2, aggr="max")), splits()),
    "PNA": (
        lambda: Readout(
            PNA(4, 8, 2, 2, aggregators=["mean", "max"], scalers=["identity", "amplification"], deg=DEGREES)
        ),
        splits(),
    ),
    **{
        f"JumpingKnowledge {kind}": (lambda kind=kind: Readout(GIN(4, 8, 2, 2, jk=kind)), splits())  # type: ignore[misc]
        for kind in ("cat", "max", "lstm")
    },
    "GraphNorm with its batch": (lambda: Readout(GCN(4, 8, 2, 2, norm=GraphNorm(8)), batch=True), splits()),
    "BatchNorm": (lambda: Readout(GCN(4, 8, 2, 2, norm="batch_norm")), splits()),
    "dropout": (lambda: Readout(GCN(4, 8, 2, 2, dropout=0.5)), splits()),
    "a virtual node in the data": (lambda: Readout(GIN(4, 8, 2, 2)), splits(lambda d: T.VirtualNode()(bare(d)))),
    "self-loops and undirected edges in the data": (
        lambda: Readout(GIN(4, 8, 2, 2)),
        splits(lambda d: T.AddSelfLoops()(T.ToUndirected()(bare(d)))),
    ),
    "RGCN, one call per relation": (lambda: Relational(RGCNConv), splits()),
    "RGCN, bases and sums": (lambda: Relational(RGCNConv, num_bases=2, aggr="add"), splits()),
    "RGCN, blocks": (lambda: Relational(RGCNConv, num_blocks=2), splits()),
    "RGCN in one call": (lambda: Relational(FastRGCNConv), splits()),
    "ChebConv, two calls": (lambda: Readout(ChebConv(4, 2, K=3)), splits()),
    "pooling after the last layer": (LateReadoutPooling, splits()),
}
REFUSED: dict[str, tuple[Built, dict[str, Split], str]] = {
    "GCN on self-loops": (lambda: Readout(GCN(4, 8, 2, 2)), splits(loops=True), "remove_self_loops"),
    "GAT on self-loops": (lambda: Readout(GAT(4, 8, 2, 2)), splits(loops=True), "add_self_loops=False"),
    "GraphNorm without its batch": (
        lambda: Readout(GCN(4, 8, 2, 2, norm=GraphNorm(8))),
        splits(),
        "batch=graphs.batch",
    ),
    "a virtual node in the model": (lambda: MakesVirtualNodes(GIN(4, 8, 2, 2)), splits(), "transforms has VirtualNode"),
    "TopK pooling between layers": (Pooling, splits(), "pooling .* after the last layer only"),
    "a compiled network": (compiled_inside, splits(), r"model.network is compiled: use model.network._orig_mod"),
    "compiled in place": (compiled_in_place, splits(), r"leave out model.network.compile\(\)"),
    "RGCN of maxima": (
        lambda: Relational(RGCNConv, aggr="max"),
        splits(),
        r"by MaxAggregation.* use aggr='add' or aggr='mean'",
    ),
    "a hook on messages": (hooked, splits(), r"move it into message\(\)"),
    "bfloat16": (lambda: Readout(GCN(4, 8, 2, 2)).bfloat16(), splits(), r"use model.float\(\)"),
    "cached edges": (lambda: Readout(GCN(4, 8, 2, 2, cached=True)), splits(), "use cached=False"),
}


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", EXACT)
def test_is_explained_exactly(name: str, double: bool) -> None:
    """Open gates give the model's output; closing an edge's gates for good is the same as having no message there."""
    build, data = EXACT[name]
    model = make(build)
    if double:
        model, data = model.double(), {n: Split(s.graphs.to(torch.float64), s.labels) for n, s in data.items()}
    problem = Problem(model, GraphClassification(), data)
    found = problem.findings
    graphs = data["test"].graphs
    assert found.num_layers >= 1
    assert not found.without_gradient
    with problem.gates() as gates, torch.no_grad():
        recording = gates.record(graphs)
        assert torch.equal(recording.forward(recording.ones()), model(graphs))
        closed = recording.forward(recording.ones() * 0)
        own = [call.messages.clone() for call in recording.calls]
    seen = [0]

    def silence(layer: Any, inputs: Any, messages: Tensor) -> Tensor:
        """A plain way to drop the messages of the real edges, in every layer."""
        seen[0] += len(messages[: graphs.num_edges])
        return torch.cat([messages[: graphs.num_edges] * 0, messages[graphs.num_edges :]])

    layers = [layer for layer in gates.layers if isinstance(layer, MessagePassing)]
    handles = [layer.register_message_forward_hook(silence) for layer in layers]
    with torch.no_grad():
        assert torch.allclose(model(graphs), closed, atol=1e-6)
    for handle in handles:
        handle.remove()
    assert seen[0] == found.num_layers * graphs.num_edges == len(own) * graphs.num_edges


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_with_the_remedy(name: str) -> None:
    build, data, remedy = REFUSED[name]
    with pytest.raises(UserError, match=remedy) as error:
        _ = Problem(make(build), GraphClassification(), data).findings
    assert "\n" not in str(error.value)

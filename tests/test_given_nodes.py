"""Nodes of one big graph are explained in their neighbourhoods, as the model sees them in the whole graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data, HeteroData
from torch_geometric.nn import GCNConv, GraphConv, RGCNConv
from torch_geometric.utils import k_hop_subgraph

import attribench
from attribench import UserError
from attribench.plugins.giving_nodes import FITTED, about_nodes

METHOD = "integrated-gradients"
SIZE = 260


class Nodes(nn.Module):
    """A stranger's classifier of nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = GCNConv(4, 8), GraphConv(8, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x, edge_index).relu(), edge_index)
        return out


class OfData(Nodes):
    """The same, called with a Data object."""

    def forward(self, data: Data) -> Tensor:  # type: ignore[override]
        return super().forward(data.x, data.edge_index)


class Backwards(nn.Module):
    """One whose messages go against the edges, twice through one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = GraphConv(4, 4, flow="target_to_source"), nn.Linear(4, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        out: Tensor = self.out(self.layer(self.layer(x, edge_index).relu(), edge_index))
        return out


class Related(nn.Module):
    """One that tells kinds of edges apart."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = RGCNConv(4, 3, 2)

    def forward(self, x: Tensor, edge_index: Tensor, edge_type: Tensor) -> Tensor:
        out: Tensor = self.layer(x, edge_index, edge_type)
        return out


def big_graph() -> Data:
    draw = torch.Generator().manual_seed(5)
    edges = torch.randint(SIZE, (2, 600), generator=draw)
    edges = edges[:, edges[0] != edges[1]]
    x = torch.rand(SIZE, 4, generator=draw)
    return Data(x=x, edge_index=edges, edge_attr=torch.rand(edges.shape[1], 2), y=torch.randint(3, (SIZE,)))


DATA = big_graph()


def made(kind: type[nn.Module] = Nodes) -> nn.Module:
    torch.manual_seed(2)
    return kind()


def test_neighbourhoods_are_pygs_with_the_nodes_labels() -> None:
    asked, fitted, whole = about_nodes(made(), DATA, [7, 3])
    assert (len(asked), len(fitted), whole.num_nodes) == (2, FITTED, SIZE)
    for node, graph in zip((7, 3), asked, strict=True):
        nodes, edges, place, kept = k_hop_subgraph(node, 3, DATA.edge_index, True, SIZE)  # two layers and one
        assert torch.equal(graph.node_id, nodes)
        assert torch.equal(graph.edge_index, edges)
        assert torch.equal(graph.target, place)
        assert torch.equal(graph.edge_attr, DATA.edge_attr[kept])
        assert torch.equal(graph.y, DATA.y[[node]])
    assert not {7, 3} & {int(graph.node_id[graph.target]) for graph in fitted}


def test_layers_are_counted_as_often_as_they_run_and_the_way_their_messages_go() -> None:
    (graph,), _, _ = about_nodes(made(Backwards), DATA, [9], [1, 2])
    nodes, *_ = k_hop_subgraph(9, 3, DATA.edge_index, True, SIZE, "target_to_source")
    assert torch.equal(graph.node_id, nodes)


@pytest.mark.parametrize("kind", [Nodes, OfData, Backwards])
def test_all_nodes_that_are_asked_for_are_explained(kind: type[nn.Module]) -> None:
    model, mask = made(kind), torch.zeros(SIZE, dtype=torch.bool)
    mask[[4, 8, 100]] = True
    found = attribench.explain(model, DATA, METHOD, nodes=mask, fit=range(150, 170), progress=False)
    with torch.no_grad():
        expected = model.eval()(DATA) if kind is OfData else model.eval()(DATA.x, DATA.edge_index)
    explanations = found.to_pyg(METHOD)
    assert [int(one.node_id[one.target]) for one in explanations] == [4, 8, 100]
    assert [int(one.prediction) for one in explanations] == expected[mask].argmax(1).tolist()
    assert [one.label for one in found.explanations(METHOD)] == DATA.y[mask].tolist()


def test_several_kinds_of_nodes_are_one_graph_with_kinds_of_edges() -> None:
    draw, data = torch.Generator().manual_seed(1), HeteroData()
    data["paper"].x, data["author"].x = torch.rand(50, 4, generator=draw), torch.rand(40, 4, generator=draw)
    there = torch.stack([torch.randint(count, (150,), generator=draw) for count in (50, 40)])
    data["paper", "by", "author"].edge_index, data["author", "of", "paper"].edge_index = there, there.flip(0)
    found = attribench.explain(made(Related), data.to_homogeneous(), METHOD, nodes=[3, 60], progress=False)
    assert len(found.to_pyg(METHOD)) == 2
    for nodes in ([1], None):
        with pytest.raises(
            UserError, match=r"got HeteroData: (give the graph itself, of several kinds|to explain nodes)"
        ):
            attribench.explain(made(Related), data, METHOD, nodes=nodes, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes": [3], "num_hops": 1}, "about node .*: expected the logits of the whole graph.*num_hops"),
        ({"nodes": [SIZE]}, f"expected targets among the nodes 0 to {SIZE - 1}; got {SIZE} at position 0"),
        ({"nodes": [-1]}, "expected targets among the nodes 0 to .*; got -1"),
        ({"nodes": [1.5]}, r"expected nodes as numbers \(T,\), or as a mask .*; got torch.float32 \(1,\)"),
        ({"nodes": "x"}, "expected nodes as numbers or as a mask; TypeError"),
        ({"nodes": [True]}, r"got torch.bool \(1,\)"),
        ({"nodes": [1], "fit": [2]}, "expected at least 2 graphs to fit on"),
        ({"nodes": [1], "labels": [1, 2]}, "expected one label for each of 1 graphs; got 2"),
        ({"nodes": [1], "graphs": [DATA]}, "expected one torch_geometric.data.Data with nodes=...; got list"),
        ({"nodes": [1], "graphs": Data(**DATA.to_dict(), target=1)}, "expected a graph without 'target'"),
        ({"num_hops": 3}, "expected num_hops with nodes=..."),
        ({}, "expected a list of torch_geometric.data.Data; got Data: to explain nodes of one graph give nodes="),
    ],
)
def test_what_are_no_nodes_of_one_graph_is_said_in_a_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        attribench.explain(**{"model": made(), "graphs": DATA, "methods": METHOD, "progress": False, **arguments})
    assert "\n" not in str(error.value)


def test_a_model_that_raises_is_named() -> None:
    class Broken(Nodes):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            raise ValueError("of its own")

    with pytest.raises(
        UserError, match="expected a model that runs on its graphs; Broken raised ValueError: of its own"
    ):
        attribench.explain(made(Broken), DATA, METHOD, nodes=[1], progress=False)

"""Graphs with impossible content are refused when the batch is made, naming graph, edge and value."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data, HeteroData

from attribench.base.errors import UserError
from attribench.model.graphs import GraphBatch


def edges(*pairs: tuple[int, int]) -> Tensor:
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).t().contiguous()


def data(**changes: Any) -> Data:
    """Three nodes, two edges."""
    fields = {
        "x": torch.ones(3, 2),
        "edge_index": edges((0, 1), (1, 2)),
        "kind": torch.tensor([0, 1]),
        "q": torch.ones(1),
    }
    return Data(**{name: value for name, value in {**fields, **changes}.items() if value is not None})


def joined(*graphs: Any, name: str = "test") -> GraphBatch:
    return GraphBatch.from_data_list(graphs, edge=["kind"], graph=["q"], name=name)


NAN, INF = float("nan"), float("inf")
BAD: dict[str, tuple[Any, str]] = {
    "first node of the next graph": (
        data(edge_index=edges((0, 1), (1, 3))),
        "graph 1 of 'test', edge 1: .* 0 to 2, .* node 3",
    ),
    "negative node": (data(edge_index=edges((-1, 1), (1, 2))), "graph 1 of 'test', edge 0: .* node -1"),
    "far away": (data(edge_index=edges((0, 1), (10**12, 2))), "edge 1: .* node 1000000000000"),
    "edge of a graph without nodes": (data(x=torch.ones(0, 2)), "edge 0: expected nodes from 0 to -1, of the 0"),
    "float": (
        data(edge_index=edges((0, 1), (1, 2)).float()),
        r"graph 1 of 'test': expected an edge_index of int64; got torch.float32",
    ),
    "float and empty": (
        data(edge_index=torch.tensor([[], []]), kind=torch.ones(0).long()),
        r"int64; got torch.float32: use torch.empty\(2, 0, dtype=torch.long\)",
    ),
    "int32": (data(edge_index=edges((0, 1), (1, 2)).int()), "int64; got torch.int32"),
    "a row an edge": (data(edge_index=torch.zeros(5, 2).long()), r"\(2, E\); got \(5, 2\): transpose"),
    "one dimension": (data(edge_index=torch.zeros(4).long()), r"\(2, E\); got \(4,\)"),
    "no edges given": (data(edge_index=None), "expected an edge_index"),
    "short edge attribute": (data(kind=torch.tensor([0])), r"'kind' with 2 rows, one a edge; got \(1,\)"),
    "long node attribute": (data(x=torch.ones(4, 2), num_nodes=3), r"'x' with 3 rows, one a node; got \(4, 2\)"),
    "other width": (data(x=torch.ones(3, 5)), r"'x' of shape of a row \(2,\), as in graph 0; got \(5,\)"),
    "other type": (data(x=torch.ones(3, 2).double()), "'x' of type torch.float32, as in graph 0; got torch.float64"),
    "features that are no numbers": (
        data(x=torch.tensor([[1.0, 1], [1, NAN], [1, 1]])),
        "finite values of 'x'; got nan in row 1",
    ),
    "infinite graph attribute": (data(q=torch.tensor([INF])), "finite values of 'q'; got inf in row 0"),
    "missing attribute": (data(kind=None), "expected 'kind' with 2 rows"),
    "text": (data(q="no"), "expected a tensor as 'q'; got str"),
    "unknown number of nodes": (data(x=None), "expected node features x, or num_nodes"),
    "heterogeneous": (HeteroData(), r"expected a torch_geometric.data.Data; got HeteroData: .* to_homogeneous\(\)"),
    "a batch": (Batch.from_data_list([data(), data()]), r"expected one graph; got a Batch of 2: .* to_data_list\(\)"),
    "sparse": (data(x=torch.ones(3, 2).to_sparse()), r"a dense tensor as 'x'; got torch.sparse_coo: use to_dense\(\)"),
    "complex and no number": (data(q=torch.tensor([complex(NAN, 1)])), "'q' of type torch.float32, .* torch.complex64"),
    "no graph": ({"x": 1}, "expected a torch_geometric.data.Data; got dict"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_list_is_refused_for_its_first_impossible_graph(name: str) -> None:
    bad, message = BAD[name]
    with pytest.raises(UserError, match=message) as error:
        joined(data(), bad, data())
    assert "\n" not in str(error.value)


def test_what_is_unusual_and_sound_is_accepted() -> None:
    lonely = data(x=torch.ones(1, 2), edge_index=edges(), kind=torch.ones(0).long())
    nothing = data(x=torch.ones(0, 2), edge_index=edges(), kind=torch.ones(0).long())
    doubled = data(edge_index=edges((0, 0), (0, 0)))
    batch = joined(lonely, nothing, doubled)
    assert batch.num_nodes_per_graph.tolist() == [1, 0, 3]
    assert batch.num_edges_per_graph.tolist() == [0, 0, 2]
    counted = GraphBatch.from_data_list([Data(num_nodes=5, edge_index=edges((0, 1)))], node=())
    assert counted.num_nodes == 5
    assert GraphBatch.from_data_list(graph for graph in [data(), data()]).num_graphs == 2
    with pytest.raises(UserError, match="at least one graph of 'test'; got none"):
        joined()


SOUND = joined(data(), data())
CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "edge into the next graph": (
        {"edge_index": edges((0, 1), (1, 3), (3, 4), (4, 5))},
        "graph 0, edge 1: .* got node 3",
    ),
    "edge out of the last graph": (
        {"edge_index": edges((0, 1), (1, 2), (3, 4), (4, 6))},
        "graph 1, edge 1: .* got node 3",
    ),
    "edge into the graph before": (
        {"edge_index": edges((0, 1), (1, 2), (2, 4), (4, 5))},
        "graph 1, edge 0: .* got node -1",
    ),
    "type of edge_index": ({"edge_index": SOUND.edge_index.float()}, "expected edge_index as an int64 tensor"),
    "shape of edge_index": ({"edge_index": SOUND.edge_index.t()}, r"\(2, E\)"),
    "falling pointers": ({"node_ptr": torch.tensor([0, 7, 6])}, "expected node_ptr to rise"),
    "pointers from one": ({"edge_ptr": torch.tensor([1, 2, 4])}, "expected edge_ptr to rise from 0 to 4; got 1 to 4"),
    "too few pointers": ({"edge_ptr": torch.tensor([0, 4])}, "expected edge_ptr of 3 entries for 2 graphs; got 2"),
    "pointers to elsewhere": ({"edge_ptr": torch.tensor([0, 2, 5])}, "0 to 4; got 0 to 5"),
    "keys of edges": ({"edge_key": torch.arange(3)}, "expected edge_key of 4 entries; got 3"),
    "a graph's key twice": ({"graph_key": torch.tensor([7, 7])}, "a graph_key of its own for each graph; got 7 twice"),
    "an edge's key twice": (
        {"edge_key": torch.tensor([0, 1, 4, 4])},
        "graph 1: expected an edge_key of its own for each edge; got 4 twice",
    ),
    "no dict": ({"node": None}, "expected node as a dict of tensors; got NoneType"),
    "a sparse tensor": ({"node": {"x": torch.ones(6, 2).to_sparse()}}, "'x' with 6 rows; got torch.sparse_coo"),
    "complex and no number": ({"edge": {"w": torch.tensor([1, 1, 1, complex(NAN, 1)])}}, "finite values of 'w'"),
    "rows of nodes": ({"node": {"x": torch.ones(5, 2)}}, r"expected node tensor 'x' with 6 rows; got \(5, 2\)"),
    "rows of graphs": ({"graph": {"q": torch.ones(())}}, r"expected graph tensor 'q' with 2 rows; got \(\)"),
    "a name twice": ({"edge": {"x": torch.ones(4)}}, "'x' twice"),
    "a reserved name": ({"edge": {"batch": torch.ones(4)}}, "'batch' twice"),
    "no numbers": (
        {"edge": {"w": torch.tensor([1.0, 1, 1, NAN])}},
        "graph 1, edge 1: expected finite values of 'w'; got nan",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_batch_is_refused_by_its_constructor(name: str) -> None:
    changes, message = CHANGES[name]
    with pytest.raises(UserError, match=message):
        replace(SOUND, **changes)


def test_what_is_made_from_a_batch_is_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[GraphBatch] = []
    monkeypatch.setattr("attribench.model.graphs.check_batch", checked.append)
    parts = [part.batch for part in SOUND.parts(2)]
    minibatches = [batch for _, batch in SOUND.minibatches(1, torch.Generator())]
    kept = SOUND.keep_edges(torch.tensor([True, False, True, True])).reorder_edges(torch.tensor([0, 2, 1]))
    made = [SOUND.select(torch.tensor([1])), SOUND.to(torch.float64), *parts, *minibatches, kept]
    assert not checked
    monkeypatch.undo()
    for batch in made:
        assert replace(batch).num_edges == batch.num_edges  # the constructor has nothing against them

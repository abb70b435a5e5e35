"""Batches of graphs against plain loops over the graphs they were made of."""

from itertools import pairwise

import pytest
import torch
from helpers import join, random_batch, random_data_list
from torch import Tensor
from torch_geometric.data import Data

from attribench.base.errors import UserError
from attribench.model.graphs import GraphBatch

SIZES = [(4, 6), (1, 0), (3, 5), (2, 1), (5, 8)]

Edge = tuple[int, int, int, int, list[float]]
Plain = tuple[int, list[list[float]], list[Edge], list[int]]


def plain_data(key: int, data: Data, kept: list[int] | None = None) -> Plain:
    """Key, node features, edges (u, v, key, type, attributes) and label of one graph, with nodes numbered from 0."""
    columns = range(data.edge_index.shape[1]) if kept is None else kept
    edges = [
        (
            int(data.edge_index[0, e]),
            int(data.edge_index[1, e]),
            e,
            int(data.edge_type[e]),
            list(map(float, data.edge_attr[e])),
        )
        for e in columns
    ]
    return key, [list(map(float, row)) for row in data.x], edges, data.y.tolist()


def plain_batch(batch: GraphBatch) -> list[Plain]:
    graphs = []
    nodes, edges = list(pairwise(batch.node_ptr.tolist())), list(pairwise(batch.edge_ptr.tolist()))
    for g in range(len(batch.graph_key)):
        (first, end), (start, stop) = nodes[g], edges[g]
        listed = [
            (
                int(batch.edge_index[0, e]) - first,
                int(batch.edge_index[1, e]) - first,
                int(batch.edge_key[e]),
                int(batch["edge_type"][e]),
                list(map(float, batch["edge_attr"][e])),
            )
            for e in range(start, stop)
        ]
        features = [list(map(float, row)) for row in batch["x"][first:end]]
        graphs.append((int(batch.graph_key[g]), features, listed, batch["y"][g].reshape(-1).tolist()))
    return graphs


def test_from_data_list_keeps_every_graph_as_it_is() -> None:
    graphs = random_data_list(SIZES)
    batch = join(graphs)
    assert plain_batch(batch) == [plain_data(i, data) for i, data in enumerate(graphs)]
    assert (batch.num_graphs, batch.num_nodes, batch.num_edges) == (5, 15, 20)
    assert batch.num_nodes_per_graph.tolist() == [4, 1, 3, 2, 5]
    assert batch.num_edges_per_graph.tolist() == [6, 0, 5, 1, 8]
    assert batch.batch.tolist() == [0] * 4 + [1] + [2] * 3 + [3] * 2 + [4] * 5
    assert batch.edge_graph.tolist() == [0] * 6 + [2] * 5 + [3] + [4] * 8


@pytest.mark.parametrize("index", [[0], [3, 1], [4, 2, 2, 0], [1], [], [0, 1, 2, 3, 4]])
def test_select_and_edges_of(index: list[int]) -> None:
    graphs = random_data_list(SIZES)
    batch = join(graphs)
    chosen = torch.tensor(index, dtype=torch.long)
    selected = batch.select(chosen)
    assert plain_batch(selected) == [plain_data(i, graphs[i]) for i in index]
    assert selected.num_nodes == sum(SIZES[i][0] for i in index)
    starts = batch.edge_ptr.tolist()
    assert batch.edges_of(chosen).tolist() == [e for i in index for e in range(starts[i], starts[i + 1])]


def test_keys_are_different_for_lists_of_different_names() -> None:
    graphs = random_data_list([(2, 1)] * 50)
    names = ["", "train", "validation", "train"]
    keys = [GraphBatch.from_data_list(graphs, name=name).graph_key for name in names]
    assert torch.equal(keys[1], keys[3])
    assert torch.cat(keys[:3]).unique().numel() == 150
    assert all(key.dtype == torch.int64 for key in keys)


def test_select_of_a_selection_keeps_identities() -> None:
    batch = random_batch(SIZES)
    twice = batch.select(torch.tensor([4, 0, 2])).select(torch.tensor([2, 0]))
    assert plain_batch(twice) == plain_batch(batch.select(torch.tensor([2, 4])))
    assert twice.graph_key.tolist() == [2, 4]


def test_keep_edges_keeps_nodes_and_the_keys_of_edges() -> None:
    graphs = random_data_list(SIZES)
    batch = join(graphs)
    keep = torch.rand(batch.num_edges, generator=torch.Generator().manual_seed(1)) < 0.5
    starts = batch.edge_ptr.tolist()
    expected = [
        plain_data(i, data, [e for e in range(data.edge_index.shape[1]) if keep[starts[i] + e]])
        for i, data in enumerate(graphs)
    ]
    kept = batch.keep_edges(keep)
    assert plain_batch(kept) == expected
    assert kept.num_edges == int(keep.sum())
    assert kept.edge_graph.tolist() == batch.edge_graph[keep].tolist()  # not the cached one of the whole batch
    assert plain_batch(batch) == [plain_data(i, data) for i, data in enumerate(graphs)]


def test_reorder_edges_permutes_within_graphs_and_refuses_across_them() -> None:
    graphs = random_data_list(SIZES)
    batch = join(graphs)
    orders = [torch.randperm(edges, generator=torch.Generator().manual_seed(i)) for i, (_, edges) in enumerate(SIZES)]
    order = torch.cat([o + start for o, start in zip(orders, batch.edge_ptr[:-1], strict=True)])
    expected = [plain_data(i, data, orders[i].tolist()) for i, data in enumerate(graphs)]
    assert plain_batch(batch.reorder_edges(order)) == expected
    with pytest.raises(ValueError, match="keeps each graph's edges in its own range"):
        batch.reorder_edges(torch.arange(batch.num_edges).flip(0))


def test_minibatches_in_order_and_shuffled() -> None:
    batch = random_batch(SIZES)
    assert [index.tolist() for index, _ in batch.minibatches(2)] == [[0, 1], [2, 3], [4]]
    runs = []
    for _ in range(2):
        draw = torch.Generator().manual_seed(3)
        runs.append([list(batch.minibatches(2, draw)), list(batch.minibatches(2, draw))])
    for epoch, again in zip(*runs, strict=True):
        assert [index.tolist() for index, _ in epoch] == [index.tolist() for index, _ in again]
        order = [int(i) for index, _ in epoch for i in index]
        assert sorted(order) == [0, 1, 2, 3, 4]
        assert order != sorted(order)
        for index, part in epoch:
            assert plain_batch(part) == plain_batch(batch.select(index))
    first, second = ([index.tolist() for index, _ in epoch] for epoch in runs[0])
    assert first != second


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_sum_per_graph(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    batch = random_batch(SIZES)
    values = (torch.randn(*shape, 20, generator=torch.Generator().manual_seed(2)) * 10).to(dtype)
    flat: list[Tensor] = []
    for row in values.reshape(-1, 20).tolist():
        totals = [0.0] * 5
        for e, value in enumerate(row):
            totals[int(batch.edge_graph[e])] += value
        flat.append(torch.tensor(totals, dtype=dtype))
    torch.testing.assert_close(batch.sum_per_graph(values), torch.stack(flat).reshape(*shape, 5))


def test_to_changes_only_floating_point_tensors_or_the_device() -> None:
    batch = random_batch(SIZES)
    double = batch.to(torch.float64)
    assert {name: double[name].dtype for name in ("x", "edge_attr", "edge_type", "y", "edge_index")} == {
        "x": torch.float64,
        "edge_attr": torch.float64,
        "edge_type": torch.int64,
        "y": torch.int64,
        "edge_index": torch.int64,
    }
    assert plain_batch(double) == plain_batch(batch)
    moved = batch.to("meta")
    assert moved.device.type == "meta"
    fields = [moved.edge_index, moved.node_ptr, moved.edge_ptr, moved.graph_key, moved.edge_key]
    levels = [*moved.node.values(), *moved.edge.values(), *moved.graph.values()]
    assert {x.device.type for x in fields + levels} == {"meta"}


def test_tensors_by_name() -> None:
    batch = random_batch(SIZES)
    assert batch["edge_index"] is batch.edge_index
    assert torch.equal(batch["batch"], batch.batch)
    assert batch["y"].shape == (5,)
    with pytest.raises(KeyError, match="expected one of edge_index, batch, x, edge_type, edge_attr, y; got 'z'"):
        batch["z"]


@pytest.mark.parametrize(
    ("node", "edge", "message"),
    [
        (["z"], [], "graph 0: expected 'z' with 3 rows"),
        (["x"], ["short"], "graph 1: expected 'short' with 3 rows"),
    ],
)
def test_from_data_list_names_the_graph_that_lacks_an_attribute(node: list[str], edge: list[str], message: str) -> None:
    loop = torch.tensor([[0, 1, 2], [1, 2, 0]])
    graphs = [Data(x=torch.zeros(3, 1), edge_index=loop, short=torch.zeros(3 - i)) for i in range(2)]
    with pytest.raises(UserError, match=message):
        GraphBatch.from_data_list(graphs, node, edge)


@pytest.mark.parametrize("fault", ["graph attribute", "edges", "graphs"])
def test_from_data_list_refuses_what_its_docstring_says(fault: str) -> None:
    whole = Data(x=torch.zeros(3, 1), edge_index=torch.tensor([[0], [1]]))
    bad = {"graph attribute": [whole], "edges": [Data(x=torch.zeros(3, 1))], "graphs": []}[fault]
    with pytest.raises(UserError, match="expected"):
        GraphBatch.from_data_list(bad, graph=["y"] if fault == "graph attribute" else [])

"""Undirected edges: by hand, and against plain sets."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
import torch
from helpers import join, random_batch
from torch import Tensor
from torch_geometric.data import Data

from attribench.model.graphs import GraphBatch
from attribench.scoring.undirected import PairCounts, node_pairs, pair_counts


def make(*graphs: tuple[int, list[tuple[int, int]]]) -> GraphBatch:
    data = []
    for nodes, edges in graphs:
        index = torch.tensor(edges, dtype=torch.long).view(-1, 2).T.contiguous()
        count = len(edges)
        zeros = torch.zeros(count, dtype=torch.long)
        data.append(
            Data(
                x=torch.zeros(nodes, 1),
                edge_index=index,
                edge_type=zeros,
                edge_attr=torch.zeros(count, 1),
                y=torch.tensor([0]),
            )
        )
    return join(data)


def bools(*rows: Iterable[int]) -> Tensor:
    return torch.tensor([list(row) for row in rows]) > 0


def counts(found: PairCounts) -> list[list[int]]:
    return [x.tolist() for x in (found.true_positive, found.found, found.gold, found.pairs)]


# A path with both directions, its last edge twice and a loop; no edges; and the same pairs of numbers in a third graph.
GRAPHS = make(
    (3, [(0, 1), (1, 0), (1, 2), (2, 1), (1, 2), (2, 2)]),
    (2, []),
    (3, [(1, 0), (2, 1)]),
)


def test_pairs_are_numbered_within_their_graph() -> None:
    pair, graph = node_pairs(GRAPHS)
    assert pair.tolist() == [0, 0, 1, 1, 1, 2, 3, 4]
    assert graph.tolist() == [0, 0, 0, 2, 2]


def test_counts_by_hand() -> None:
    #            01 10 12 21 12 22 | 10 21
    mask = bools([0, 1, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 0])
    gold = bools([1, 0, 0, 0, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0, 1, 1])
    found = pair_counts(mask, gold, GRAPHS)
    # First: found {01, 22}, gold {01, 12}; third: found {01}, gold {01, 12}.
    assert counts(found) == [[1, 0, 1], [2, 0, 1], [2, 0, 2], [3, 0, 2]]
    per_graph = found.per_graph()
    assert per_graph["precision"].tolist() == [0.5, 1, 1]
    assert per_graph["recall"].tolist() == [0.5, 1, 0.5]
    assert per_graph["f1"].tolist() == pytest.approx([0.5, 1, 2 / 3])
    assert found.micro() == pytest.approx({"precision": 2 / 3, "recall": 2 / 4, "f1": 4 / 7})
    assert found.macro()["f1"] == pytest.approx((0.5 + 1 + 2 / 3) / 3)
    # Over messages none of the two layers' is both retained and gold but one: direction and layer tell them apart.
    assert int((mask & gold).sum()) == 1


def test_either_direction_and_any_layer_will_do() -> None:
    gold = bools([1, 1, 0, 0, 0, 0, 1, 0])
    for mask in (
        bools([1, 0, 0, 0, 0, 0, 1, 0]),
        bools([0, 1, 0, 0, 0, 0, 1, 0]),
        bools([0, 0, 0, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0, 0, 0]),
    ):
        assert pair_counts(mask, gold, GRAPHS).micro()["f1"] == 1
    assert pair_counts(bools([0, 0, 0, 0, 1, 0, 0, 0]), gold, GRAPHS).micro()["f1"] == 0


def test_against_sets_in_every_batch_and_order() -> None:
    graphs = random_batch([(4, 12), (3, 0), (5, 9), (2, 6), (6, 30)], seed=4)
    draw = torch.Generator().manual_seed(5)
    mask, gold = (torch.rand(3, graphs.num_edges, generator=draw) < 0.2 for _ in range(2))
    found = pair_counts(mask, gold, graphs)
    ends = graphs.edge_ptr.tolist()
    for g in range(graphs.num_graphs):
        sets = []
        for chosen in (mask, gold, torch.ones_like(gold)):
            edges = [e for e in range(ends[g], ends[g + 1]) if chosen[:, e].any()]
            sets.append({frozenset(graphs.edge_index[:, e].tolist()) for e in edges})
        expected = [len(sets[0] & sets[1]), *map(len, sets)]
        assert [row[g] for row in counts(found)] == expected
    index = torch.tensor([4, 1, 3])
    chosen_edges = graphs.edges_of(index)
    some = pair_counts(mask[:, chosen_edges], gold[:, chosen_edges], graphs.select(index))
    assert counts(some) == [[row[g] for g in index] for row in counts(found)]
    order = torch.cat([torch.arange(a, b).flip(0) for a, b in pairwise(ends)])
    assert counts(pair_counts(mask[:, order], gold[:, order], graphs.reorder_edges(order))) == counts(found)


def test_nothing_at_all() -> None:
    graphs = make((2, []), (1, []))
    empty = torch.zeros(2, 0, dtype=torch.bool)
    assert counts(pair_counts(empty, empty, graphs)) == [[0, 0]] * 4
    assert pair_counts(empty, empty, graphs).micro() == {"precision": 1, "recall": 1, "f1": 1}

"""From scores to masks, against plain loops over graphs."""

import math
from itertools import pairwise

import pytest
import torch
from helpers import bare_batch
from torch import Tensor

from attribench.model.graphs import GraphBatch
from attribench.plugins.masks import THRESHOLDS, normalise, random_like, thin, threshold, top_shares
from attribench.plugins.method import Attribution

COUNTS = [7, 1, 0, 10, 3]
EDGES = sum(COUNTS)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def top_share(values: Tensor, graphs: GraphBatch, share: float) -> Tensor:
    return top_shares(values, graphs, [share])[0]


def ranges(graphs: GraphBatch) -> list[slice]:
    return [slice(a, b) for a, b in pairwise(graphs.edge_ptr.tolist())]


def test_normalise_divides_relative_scores_by_the_graphs_largest_over_all_layers() -> None:
    graphs, scores = bare_batch(COUNTS), random(3, EDGES)
    scores[:, :7] *= 100
    scores[:, -3:] = 0
    expected = torch.zeros(3, EDGES)
    for part in ranges(graphs):
        largest = max((abs(float(x)) for row in scores[:, part] for x in row), default=0)
        for k in range(3):
            for e in range(part.start, part.stop):
                expected[k, e] = abs(float(scores[k, e])) / largest if largest else 0
    values = normalise(Attribution(scores, "relative"), graphs)
    torch.testing.assert_close(values, expected)
    assert [float(values[:, part].max()) for part in ranges(graphs) if part.stop > part.start] == [1, 1, 1, 0]


def test_normalise_leaves_gates_alone() -> None:
    scores = random(2, EDGES).sigmoid()
    assert torch.equal(normalise(Attribution(scores, "gate"), bare_batch(COUNTS)), scores)


def test_threshold_is_strict() -> None:
    values = torch.tensor([[0.1, 0.3, 0.5, 0.9]])
    assert [threshold(values, t).sum().item() for t in (0.05, 0.1, 0.5, 0.9)] == [4, 3, 1, 0]
    assert THRESHOLDS == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.3, 0.5, 1 / 3, 1.0])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_top_share_keeps_each_graphs_largest(share: float, num_layers: int) -> None:
    graphs, values = bare_batch(COUNTS), random(num_layers, EDGES).sigmoid()
    mask = top_share(values, graphs, share)
    assert mask.dtype == torch.bool
    for part, count in zip(ranges(graphs), COUNTS, strict=True):
        exact = share * num_layers * count
        kept = round(exact) if math.isclose(exact, round(exact), abs_tol=1e-9) else math.ceil(exact)
        cells = [(k, e) for k in range(num_layers) for e in range(part.start, part.stop)]
        best = sorted(cells, key=lambda cell: -float(values[cell]))[:kept]
        assert {cell for cell in cells if mask[cell]} == set(best)


def test_top_share_counts_are_not_spoilt_by_rounding() -> None:
    """0.1 * 3 * 10 is 3.0000000000000004 in floating point; three edges are kept, not four."""
    graphs = bare_batch([10])
    assert int(top_share(random(3, 10), graphs, 0.1).sum()) == math.ceil(0.1 * 30 - 1e-9) == 3
    assert int(top_share(random(1, 10), graphs, 0.3).sum()) == 3


def test_ties_do_not_depend_on_order_or_batch() -> None:
    graphs = bare_batch(COUNTS)
    values = (random(2, EDGES) * 2).round().abs()  # many ties
    mask = top_share(values, graphs, 0.3)
    assert torch.equal(mask, top_share(values, graphs, 0.3))
    order = torch.cat([torch.arange(part.start, part.stop).flip(0) for part in ranges(graphs)])
    assert torch.equal(top_share(values[:, order], graphs.reorder_edges(order), 0.3), mask[:, order])
    index = torch.tensor([3, 0])
    edges = graphs.edges_of(index)
    assert torch.equal(top_share(values[:, edges], graphs.select(index), 0.3), mask[:, edges])


def test_ties_prefer_no_position() -> None:
    graphs = bare_batch([5] * 2000)
    kept = top_share(torch.ones(2, 10_000), graphs, 0.2).view(2, 2000, 5)
    assert kept.sum((0, 2)).tolist() == [2] * 2000
    by_position = kept.double().mean(1)  # 0.2 each, with a standard deviation of 0.009
    assert float((by_position - 0.2).abs().max()) < 0.04


@pytest.mark.parametrize("seed", [0, 1])
def test_random_like_keeps_the_counts_of_every_graph_and_layer(seed: int) -> None:
    graphs = bare_batch(COUNTS)
    mask = random(3, EDGES, seed=5) > torch.tensor([[-1.0], [0], [9]])
    drawn = random_like(mask, graphs, seed)
    for part in ranges(graphs):
        assert drawn[:, part].sum(1).tolist() == mask[:, part].sum(1).tolist()
    assert torch.equal(drawn, random_like(mask, graphs, seed))
    assert not torch.equal(drawn, random_like(mask, graphs, seed + 2))
    assert not torch.equal(drawn, mask)


def test_random_like_does_not_depend_on_the_batch() -> None:
    graphs, index = bare_batch(COUNTS), torch.tensor([3, 0])
    mask, edges = random(2, EDGES) > 0, graphs.edges_of(index)
    alone = random_like(mask[:, edges], graphs.select(index), 4)
    assert torch.equal(alone, random_like(mask, graphs, 4)[:, edges])


def test_random_like_picks_every_edge_equally_often() -> None:
    graphs = bare_batch([6, 4])
    mask = torch.zeros(2, 10, dtype=torch.bool)
    mask[0, :2] = mask[1, :3] = mask[0, 6] = True  # 2 and 3 of 6 edges, 1 and 0 of 4
    share = torch.stack([random_like(mask, graphs, seed) for seed in range(2000)]).double().mean(0)
    expected = torch.tensor([[1 / 3] * 6 + [1 / 4] * 4, [1 / 2] * 6 + [0.0] * 4], dtype=torch.float64)
    assert float((share - expected).abs().max()) < 4.5 * (0.25 / 2000) ** 0.5
    pairs = torch.stack([random_like(mask, graphs, seed)[0, :6] for seed in range(2000)]).double()
    together = pairs.t() @ pairs / 2000  # two of six: every pair in 1 of 15 draws
    assert float((together[~torch.eye(6, dtype=torch.bool)] - 1 / 15).abs().max()) < 4.5 * (1 / 15 / 2000) ** 0.5


def test_thinned_masks_are_nested_and_keep_their_share() -> None:
    graphs = bare_batch([5] * 2000)
    mask = random(2, 10_000) > 0
    thinned = {share: thin(mask, graphs, share, 3) for share in (0.0, 0.25, 0.5, 0.75, 1.0)}
    assert not thinned[0.0].any()
    assert torch.equal(thinned[1.0], mask)
    for (_, fewer), (share, more) in pairwise(thinned.items()):
        assert not (fewer & ~more).any()
        assert float(more.sum() / mask.sum()) == pytest.approx(share, abs=0.02)
    index = torch.tensor([30, 7])
    edges = graphs.edges_of(index)
    assert torch.equal(thin(mask[:, edges], graphs.select(index), 0.5, 3), thinned[0.5][:, edges])


def test_shares_of_one_call_are_those_of_each_alone_and_lie_in_each_other() -> None:
    graphs, shares = bare_batch([7, 1, 0, 10, 3]), (0.0, 0.01, 1 / 3, 0.5, 0.999, 1.0)
    values = (random(3, 21) * 4).round()  # many ties
    masks = top_shares(values, graphs, shares)
    for share, mask in zip(shares, masks, strict=True):
        assert torch.equal(mask, top_share(values, graphs, share))
        kept = graphs.sum_per_graph(mask.long().sum(0)).tolist()
        assert kept == [math.ceil(share * 3 * edges - 1e-9) for edges in (7, 1, 0, 10, 3)]
    assert all(not bool((smaller & ~larger).any()) for smaller, larger in pairwise(masks))

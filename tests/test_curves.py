"""Figures over a grid, against values worked out by hand on a model that adds the weights of its edges."""

import math

import pytest
import torch
from additive_helpers import Additive, random_weights, streaming, weighted_batch
from helpers import bare_batch
from torch import Tensor

from attribench.base.limits import MAX_EDGES
from attribench.model.graphs import GraphBatch
from attribench.model.output import GraphClassification
from attribench.plugins.masks import top_shares
from attribench.scoring.grids import (
    DROPPED,
    GRID,
    SparsityCurve,
    Thinned,
    area,
    mean_over_graphs,
    scored_above,
    sparsity_curve,
    thinned,
    thinned_masks,
)
from attribench.scoring.passes import Asking, Effects, Masked, answered, answered_together, effects, masked_passes

OUTPUT = GraphClassification()


def coin(reference: float, other: float) -> float:
    """KL between the coins of two logits."""
    p, q = 1 / (1 + math.exp(-reference)), 1 / (1 + math.exp(-other))
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def bools(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.bool)


# Two graphs, one layer: logits 3 + 1 - 2 = 2 and -1 + 4 - 5 = -2.
GRAPHS = weighted_batch([[[3], [1], [-2]], [[-1], [4], [-5]]])
LABELS = torch.tensor([1, 1])


def under(masks: list[Tensor], graphs: GraphBatch = GRAPHS, labels: Tensor = LABELS) -> Effects:
    with streaming(Additive(graphs["weight"].shape[1]), graphs) as stream:
        return answered(stream, effects(stream, OUTPUT, labels, masks))


def test_effects_by_hand() -> None:
    found = under([bools([[1, 0, 1, 0, 1, 1]]), bools([[0, 0, 1, 0, 1, 0]]), bools([[1] * 6])])
    # Logits 1 and -1; -2 and 4; 2 and -2. The label is 1: right are the first graph, the second, the first.
    assert found.metric.tolist() == [0.5, 0.5, 0.5]
    assert found.unchanged.tolist() == [[True, True], [False, False], [True, True]]
    expected = [[coin(2, 1), coin(-2, -1)], [coin(2, -2), coin(-2, 4)], [0, 0]]
    torch.testing.assert_close(found.divergence, torch.tensor(expected, dtype=torch.float64))
    assert len(found[1:]) == 2
    assert torch.equal(found[1:].unchanged, found.unchanged[1:])


def test_passes_use_baselines_and_make_none_for_open_gates() -> None:
    with streaming(Additive(1), GRAPHS) as stream:
        gates = stream._gates
        before = gates.forward_passes
        closed, opened = masked_passes(stream, [bools([[0] * 6]), bools([[1] * 6])], [torch.tensor([0.5]).double()])
        assert gates.forward_passes == before + 1
    assert closed[:, 1].tolist() == [1.5, 1.5]  # three messages of 0.5
    assert torch.equal(opened, stream.logits)


def test_passes_split_baselines_per_graph_and_record_a_part_once() -> None:
    baselines = [torch.tensor([[1.0], [2]]).double()]
    masks = [bools([[1, 0, 1, 0, 1, 1]]), bools([[0, 0, 1, 0, 1, 0]])]
    with streaming(Additive(1), GRAPHS, 1) as stream:
        before = stream._gates.forward_passes
        split = masked_passes(stream, masks, baselines)
        assert stream._gates.forward_passes == before + 2 * (1 + 2)
    assert split[0][:, 1].tolist() == [1 + 1, -1 + 2]
    assert split[1][:, 1].tolist() == [-2 + 2, 4 + 4]


def test_what_several_ask_for_is_recorded_once_and_passed_once() -> None:
    mask, other, own = bools([[1, 0, 1, 0, 1, 1]]), bools([[0, 0, 1, 0, 1, 0]]), [torch.tensor([0.5]).double()]

    def twice() -> Asking[Tensor]:
        (first,) = yield [Masked(mask)]
        (second,) = yield [Masked(other, own)]
        return torch.stack([first, second])

    def once() -> Asking[Tensor]:
        return torch.stack((yield [Masked(mask.double()), Masked(mask.clone()), Masked(mask, own), Masked(mask)]))

    def none() -> Asking[Tensor]:
        return torch.zeros(())
        yield []

    with streaming(Additive(1), GRAPHS, 1) as stream:
        before = stream._gates.forward_passes
        made = answered_together(stream, {"twice": twice(), "once": once(), "none": none()})
        # Of each of the two graphs: one recording with three passes, as gates of a float may be no mask; one with one.
        assert stream._gates.forward_passes == before + 2 * (1 + 3) + 2 * (1 + 1)
        for asked, found in (((mask, None), made["twice"][0]), ((other, own), made["twice"][1])):
            assert torch.equal(found, masked_passes(stream, [asked[0]], asked[1])[0])
        assert [torch.equal(x, made["twice"][0]) for x in made["once"]] == [True, True, False, True]
    assert list(made) == ["twice", "once", "none"]
    assert made["none"].shape == ()


def test_passes_refuse_other_shapes_and_outputs_that_are_no_numbers() -> None:
    with streaming(Additive(2), random_weights([2, 3], 2)) as stream:
        with pytest.raises(ValueError, match=r"expected masks of shape"):
            masked_passes(stream, [torch.ones(2, 4)])
        with pytest.raises(ValueError, match=r"expected masks of shape"):
            masked_passes(stream, [torch.ones(3, 5)])
        with pytest.raises(ValueError, match="finite output"):
            masked_passes(stream, [torch.full((2, 5), torch.nan)])


def test_thinned_masks_drop_as_many_of_all_as_of_the_retained_and_are_nested() -> None:
    graphs = bare_batch([5] * 400)
    mask = torch.rand(2, 2000, generator=torch.Generator().manual_seed(1)) < torch.tensor([[0.6], [0.2]])
    before = None
    for share in DROPPED:
        kept, cut, random = thinned_masks(mask, graphs, share, 7)
        assert not (kept & ~mask).any()
        assert torch.equal(~cut, mask & ~kept)  # what is cut is what is not kept, and no other message
        lost = graphs.sum_per_graph((~cut).long())
        assert torch.equal(graphs.sum_per_graph((~random).long()), lost)
        assert float(lost.sum() / mask.sum()) == pytest.approx(share, abs=0.04)
        if before is not None:
            assert not any((more & ~fewer).any() for fewer, more in zip(before, (kept, cut, random), strict=True))
        before = kept, cut, random
    hit = ~thinned_masks(mask, graphs, 1.0, 7)[2] & mask  # from all: retained ones as often as others
    expected = (graphs.sum_per_graph(mask.long()) ** 2).sum() / 5
    assert float(hit.sum() / expected) == pytest.approx(1, abs=0.1)


def test_thinned_masks_depend_on_seed_and_keys_alone() -> None:
    graphs = bare_batch([5] * 30)
    mask = torch.rand(2, 150, generator=torch.Generator().manual_seed(1)) < 0.6
    whole = thinned_masks(mask, graphs, 0.5, 7)
    index = torch.tensor([20, 3, 11])
    edges = graphs.edges_of(index)
    for alone, among in zip(thinned_masks(mask[:, edges], graphs.select(index), 0.5, 7), whole, strict=True):
        assert torch.equal(alone, among[:, edges])
    order = torch.arange(150).view(30, 5).flip(1).flatten()
    for moved, here in zip(thinned_masks(mask[:, order], graphs.reorder_edges(order), 0.5, 7), whole, strict=True):
        assert torch.equal(moved, here[:, order])
    for other, here in zip(thinned_masks(mask, graphs, 0.5, 8), whole, strict=True):
        assert not torch.equal(other, here)
    # The draws from the retained and from all are independent: a message kept in one is not kept in the other.
    everything = thinned_masks(torch.ones(1, 2000).bool(), bare_batch([2000]), 0.5, 7)
    assert float((everything[0] == everything[2]).double().mean()) == pytest.approx(0.5, abs=0.05)


def make_thinned(graphs: GraphBatch, mask: Tensor, labels: Tensor, max_edges: int = MAX_EDGES) -> tuple[Thinned, int]:
    with streaming(Additive(graphs["weight"].shape[1]), graphs, max_edges) as stream:
        before = stream._gates.forward_passes
        found = answered(stream, thinned(stream, OUTPUT, labels, mask, 7))
        return found, stream._gates.forward_passes - before


def test_thinned_by_hand() -> None:
    """Two messages of 1 and two of -0.4 per graph; the mask retains the former. Each message decides by its number."""
    graphs = weighted_batch([[[1], [1], [-0.4], [-0.4]]] * 50)
    mask = bools([[1, 1, 0, 0] * 50])
    found, passes = make_thinned(graphs, mask, torch.ones(50, dtype=torch.long))
    assert passes == 13
    assert found.dropped == DROPPED
    # With one retained message or two, logits are 1 or 2 (kept) and 0.2 or 1.2 (cut); with none 0 and -0.8: class 0.
    for s, share in enumerate(DROPPED):
        kept, _, random = thinned_masks(mask, graphs, share, 7)
        some = kept.view(50, 4).any(1)
        assert torch.equal(found.kept.unchanged[s], some)
        assert torch.equal(found.cut.unchanged[s], some)
        assert float(found.kept.metric[s]) == float(some.double().mean()) == float(found.cut.metric[s])
        total = (random.view(50, 4) * torch.tensor([1, 1, -0.4, -0.4])).sum(1)
        assert torch.equal(found.random.unchanged[s], total > 0)
        expected = [coin(1.2, float(x)) for x in total]
        assert found.random.divergence[s].tolist() == pytest.approx(expected, abs=1e-6)
    assert found.kept.metric[[0, -1]].tolist() == [1, 0]
    assert found.random.metric[0] == 1
    assert 0 < float(found.random.metric[-1]) < 1


def test_thinned_takes_one_mask_for_all_layers() -> None:
    graphs = random_weights([4, 6], 3)
    mask = bools([[1, 1, 0, 1, 0, 1, 1, 0, 0, 1]])
    one, _ = make_thinned(graphs, mask, LABELS)
    kept = thinned_masks(mask, graphs, 0.5, 7)[0].expand(3, -1)
    assert torch.equal(one.kept.divergence[2], under([kept], graphs).divergence[0])


def test_scored_above_by_hand() -> None:
    """Graphs of 2, 0 and 4 edges; the third layer's are all 0.5, which is not above 0.5."""
    graphs = bare_batch([2, 0, 4])
    values = torch.tensor([[0.1, 0.6, 0, 0.2, 0.4, 1], [0, 0, 0.3, 0.3, 0.3, 0.3], [0.5] * 6])
    shares = scored_above(values, graphs, (0, 0.25, 0.5, 1))
    nan = math.nan
    expected = [
        [[1, nan, 0.75], [0, nan, 1], [1, nan, 1]],
        [[0.5, nan, 0.5], [0, nan, 1], [1, nan, 1]],
        [[0.5, nan, 0.25], [0, nan, 0], [0, nan, 0]],
        [[0, nan, 0]] * 3,
    ]
    torch.testing.assert_close(shares, torch.tensor(expected, dtype=torch.float64), equal_nan=True)
    means = mean_over_graphs(shares)
    assert means[0].tolist() == [0.875, 0.5, 1]  # of graphs, not of messages: 4 of 6 would be 0.83
    assert means[2].tolist() == [0.375, 0, 0]
    index = torch.tensor([2, 0])
    chosen = scored_above(values[:, graphs.edges_of(index)], graphs.select(index), (0, 0.25, 0.5, 1))
    assert torch.equal(chosen, shares[:, :, index])
    assert scored_above(values, graphs).shape == (21, 3, 3)
    assert (GRID[0], GRID[3], GRID[-1]) == (0, 0.15, 1)


def curve(graphs: GraphBatch, values: Tensor, labels: Tensor, max_edges: int = MAX_EDGES) -> SparsityCurve:
    with streaming(Additive(len(values)), graphs, max_edges) as stream:
        return answered(stream, sparsity_curve(stream, OUTPUT, labels, values))


def test_sparsity_curve_by_hand() -> None:
    """The first graph keeps 0, 1, 2 of its messages for s in {0}, (0, 1/2] and (1/2, 1]; its logit is 2."""
    graphs = weighted_batch([[[-1], [3]], [[-4], [1]]])
    found = curve(graphs, torch.tensor([[0.1, 0.9, 0.2, 0.7]]), LABELS)
    logits = [[0.0, 0.0]] + [[3.0, 1.0]] * 10 + [[2.0, -3.0]] * 10
    assert found.effects.unchanged[:, 0].tolist() == [False] + [True] * 20  # class 0 where logits are equal
    assert found.effects.unchanged[:, 1].tolist() == [True] + [False] * 10 + [True] * 10
    for g, reference in enumerate((2, -3)):
        expected = [coin(reference, row[g]) for row in logits]
        assert found.effects.divergence[:, g].tolist() == pytest.approx(expected, abs=1e-12)
        by_hand = 0.05 * (sum(expected) - (expected[0] + expected[-1]) / 2)
        assert float(found.divergence_area[g]) == pytest.approx(by_hand)
    # Half a step lost at 0; and for the second graph ten steps, of which the first and the last fall and rise.
    assert found.unchanged_area.tolist() == pytest.approx([0.975, 0.025 + 9 * 0.05 + 0.025])
    assert found.effects.metric.tolist() == [0] + [1] * 10 + [0.5] * 10


def test_sparsity_curve_keeps_the_top_shares() -> None:
    graphs, values = random_weights([7, 1, 0, 10], 3), torch.ones(3, 18)  # nothing but ties
    found = curve(graphs, values, torch.ones(4, dtype=torch.long))
    for s, share in enumerate(GRID):
        (mask,) = top_shares(values, graphs, [share])
        logits = graphs.sum_per_graph((mask * graphs["weight"].T).sum(0))
        whole = graphs.sum_per_graph(graphs["weight"].sum(1))
        expected = [coin(a, b) for a, b in zip(whole.tolist(), logits.tolist(), strict=True)]
        assert found.effects.divergence[s].tolist() == pytest.approx(expected, abs=1e-9)


def test_sparsity_curve_makes_a_pass_for_every_share_below_one() -> None:
    graphs = random_weights([20], 1)
    with streaming(Additive(1), graphs) as stream:
        before = stream._gates.forward_passes
        answered(stream, sparsity_curve(stream, OUTPUT, LABELS[:1], graphs["weight"].T))
        assert stream._gates.forward_passes - before == 20


def test_area_of_unequal_steps() -> None:
    points = torch.tensor([[0.0, 1], [2, 1], [1, 1]])
    assert area(points, (0, 0.5, 0.75)).tolist() == [0.5 + 0.375, 0.75]
    graphs = random_weights([2], 1)
    with streaming(Additive(1), graphs) as stream, pytest.raises(ValueError, match="ascending"):
        answered(stream, sparsity_curve(stream, OUTPUT, LABELS[:1], torch.ones(1, 2), shares=(0.5, 0.2)))


def test_batches_parts_and_orders_make_no_difference() -> None:
    graphs = random_weights([4, 1, 0, 6, 9], 2)
    draw = torch.Generator().manual_seed(3)
    values, labels = torch.rand(2, 20, generator=draw), torch.tensor([0, 1, 0, 1, 1])
    mask = values > 0.4
    index = torch.tensor([4, 2, 0, 3, 1])
    edges = graphs.edges_of(index)
    whole, whole_curve = make_thinned(graphs, mask, labels)[0], curve(graphs, values, labels)
    pieces = [
        (make_thinned(graphs, mask, labels, 1)[0], curve(graphs, values, labels, 1), torch.arange(5)),
        (
            make_thinned(graphs.select(index), mask[:, edges], labels[index])[0],
            curve(graphs.select(index), values[:, edges], labels[index]),
            index,
        ),
    ]
    for other, other_curve, order in pieces:
        pairs = [(getattr(whole, kind), getattr(other, kind)) for kind in ("kept", "cut", "random")]
        for first, second in [*pairs, (whole_curve.effects, other_curve.effects)]:
            torch.testing.assert_close(second.metric, first.metric, rtol=0, atol=1e-12)
            torch.testing.assert_close(second.divergence, first.divergence[:, order], rtol=0, atol=1e-12)
            assert torch.equal(second.unchanged, first.unchanged[:, order])
        torch.testing.assert_close(other_curve.divergence_area, whole_curve.divergence_area[order])
        assert torch.equal(other_curve.unchanged_area, whole_curve.unchanged_area[order])

"""b of Equation 3, shared, per graph and per edge, against values worked out by hand."""

from collections.abc import Callable

import pytest
import torch
from additive_helpers import Additive, streaming, weighted_batch
from helpers import bare_batch
from torch import Tensor

from attribench.model.baseline import Baseline, as_baselines, part_of_baselines
from attribench.plugins.method import Attribution
from attribench.scoring.passes import masked_passes

GRAPHS = bare_batch([2, 0, 1])
SHARED = torch.tensor([7.0, 8])
PER_GRAPH = torch.tensor([[0.0, 1], [2, 3], [4, 5]])
PER_EDGE = torch.tensor([[10.0, 11], [12, 13], [14, 15]])
WHOLE = (Baseline.shared(SHARED), Baseline.per_graph(PER_GRAPH), Baseline.per_edge(PER_EDGE))


def test_every_message_gets_what_is_shared_or_its_graphs_or_its_own() -> None:
    assert Baseline.shared(SHARED).spread(GRAPHS).tolist() == [[7, 8]]
    assert Baseline.per_graph(PER_GRAPH).spread(GRAPHS).tolist() == [[0, 1], [0, 1], [4, 5]]
    assert Baseline.per_edge(PER_EDGE).spread(GRAPHS).tolist() == [[10, 11], [12, 13], [14, 15]]
    assert [b.width for b in WHOLE] == [2, 2, 2]
    assert Baseline.per_graph(PER_GRAPH[:, :1]).spread(GRAPHS).tolist() == [[0], [0], [4]]


def test_selected_graphs_keep_theirs_in_their_order() -> None:
    index = torch.tensor([2, 1, 0])
    edges = GRAPHS.edges_of(index)
    assert Baseline.shared(SHARED).select(index, edges).values.tolist() == [7, 8]
    per_graph = Baseline.per_graph(PER_GRAPH).select(index, edges)
    assert per_graph.values.tolist() == [[4, 5], [2, 3], [0, 1]]
    per_edge = Baseline.per_edge(PER_EDGE).select(index, edges)
    assert per_edge.values.tolist() == [[14, 15], [10, 11], [12, 13]]
    assert (per_graph.kind, per_edge.kind) == ("per graph", "per edge")
    for b in (per_graph, per_edge):
        b.check(GRAPHS.select(index), 2)


def test_parts_of_a_batch_get_theirs_and_joined_make_the_whole() -> None:
    parts = list(GRAPHS.parts(2))
    split = [part_of_baselines(WHOLE, GRAPHS, part) for part in parts]
    found = [[b.values.tolist() for b in own or ()] for own in split]
    assert found == [
        [[7, 8], [[0, 1], [2, 3]], [[10, 11], [12, 13]]],
        [[7, 8], [[4, 5]], [[14, 15]]],
    ]
    for b, column in zip(WHOLE, zip(*(own or () for own in split), strict=True), strict=True):
        joined = Baseline.join(column, [part.batch for part in parts])
        assert joined.kind == b.kind
        assert torch.equal(joined.values, b.values)
    assert part_of_baselines(None, GRAPHS, parts[0]) is None


def test_parts_that_share_none_are_joined_per_graph_or_per_edge() -> None:
    parts = [bare_batch([2, 0]), bare_batch([1])]
    mixed = Baseline.join([Baseline.shared(SHARED), Baseline.per_graph(PER_GRAPH[:1])], parts)
    assert mixed.kind == "per graph"
    assert mixed.values.tolist() == [[7, 8], [7, 8], [0, 1]]
    others = Baseline.join([Baseline.shared(SHARED), Baseline.shared(SHARED + 1)], parts)
    assert others.values.tolist() == [[7, 8], [7, 8], [8, 9]]
    fine = Baseline.join([Baseline.per_graph(PER_GRAPH[:2]), Baseline.per_edge(PER_EDGE[:1])], parts)
    assert fine.kind == "per edge"
    assert fine.values.tolist() == [[0, 1], [0, 1], [10, 11]]
    fine = Baseline.join([Baseline.per_edge(PER_EDGE[:2]), Baseline.shared(SHARED)], parts)
    assert fine.values.tolist() == [[10, 11], [12, 13], [7, 8]]


def test_tensors_are_taken_for_shared_or_per_graph_and_baselines_for_themselves() -> None:
    own = Baseline.per_edge(PER_EDGE)
    found = as_baselines([SHARED, PER_GRAPH, own])
    assert found is not None
    assert [b.kind for b in found] == ["shared", "per graph", "per edge"]
    assert found[0].values is SHARED
    assert found[2] is own
    assert as_baselines(None) is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Baseline.shared(PER_GRAPH), r"a baseline of shape \(D,\), shared; got \(3, 2\)"),
        (lambda: Baseline.per_graph(SHARED), r"a baseline of shape \(G, D\), per graph; got \(2,\)"),
        (lambda: Baseline.per_edge(SHARED), r"a baseline of shape \(E, D\), per edge; got \(2,\)"),
        (
            lambda: as_baselines([SHARED, torch.zeros(1, 3, 2)]),
            r"baseline 1 of shape \(D,\) or \(G, D\); got \(1, 3, 2\)",
        ),
        (lambda: as_baselines([torch.tensor(0.0)]), r"baseline 0 of shape \(D,\) or \(G, D\); got \(\)"),
        (lambda: Baseline.per_graph(PER_GRAPH[1:]).check(GRAPHS), "a baseline of 3 rows, one per graph; got 2"),
        (lambda: Baseline.per_edge(PER_EDGE[1:]).check(GRAPHS, name="b"), "expected b of 3 rows, one per edge; got 2"),
        (lambda: Baseline.shared(SHARED).check(GRAPHS, 3), "a baseline of width 3 as of the messages, or 1; got 2"),
        (
            lambda: Baseline.join([Baseline.shared(SHARED), Baseline.shared(SHARED[:1])], [GRAPHS, GRAPHS]),
            "baselines of one width for all parts of a batch; got 2, 1",
        ),
        (lambda: Attribution(torch.ones(1, 3), baselines=(torch.tensor(0.0),)), r"baseline 0 of shape .*; got \(\)"),
        (
            lambda: Attribution(torch.ones(1, 3), baselines=(PER_GRAPH[1:],)).check(GRAPHS, 1),
            "expected baseline 0 of 3 rows, one per graph; got 2",
        ),
    ],
)
def test_wrong_shapes_are_named(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()


def test_one_scalar_suits_every_width() -> None:
    Baseline.shared(SHARED[:1]).check(GRAPHS, 3)
    Baseline.per_graph(PER_GRAPH[:, :1]).check(GRAPHS, 3)


@pytest.mark.parametrize("max_edges", [1, 2, 100])
def test_a_stream_gives_every_part_its_own(max_edges: int) -> None:
    graphs = weighted_batch([[[1.0], [2]], [[3]]])
    gates = torch.tensor([[0.5, 0, 0]]).double()

    def sums(b: Baseline | Tensor) -> list[float]:
        with streaming(Additive(1), graphs, max_edges) as stream:
            (found,) = masked_passes(stream, [gates], [b])
        return [float(x) for x in found[:, 1]]

    # The first graph's messages are 1 and 2, at z of 0.5 and 0; the second's is 3, at z = 0.
    assert sums(Baseline.shared(torch.tensor([10.0]))) == sums(torch.tensor([10.0])) == [0.5 + 5 + 10, 10]
    assert sums(Baseline.per_graph(torch.tensor([[10.0], [20]]))) == [0.5 + 5 + 10, 20]
    assert sums(torch.tensor([[10.0], [20]])) == [0.5 + 5 + 10, 20]
    assert sums(Baseline.per_edge(torch.tensor([[10.0], [20], [30]]))) == [0.5 + 5 + 20, 30]


@pytest.mark.parametrize("max_edges", [2, 10**6])
def test_a_pass_refuses_those_of_other_graphs_and_widths(max_edges: int) -> None:
    with streaming(Additive(1), weighted_batch([[[1.0], [2]], [[3]]]), max_edges) as stream:
        half = [stream.ones() / 2]
        with pytest.raises(ValueError, match="a baseline for call 0 of 2 rows, one per graph; got 3"):
            masked_passes(stream, half, [torch.zeros(3, 1)])
        with pytest.raises(ValueError, match="a baseline for call 0 of 3 rows, one per edge; got 2"):
            masked_passes(stream, half, [Baseline.per_edge(torch.zeros(2, 1))])
        with pytest.raises(ValueError, match="a baseline for call 0 of width 1 as of the messages, or 1; got 3"):
            masked_passes(stream, half, [torch.zeros(3)])


def test_an_attribution_keeps_the_tensors_that_it_was_given() -> None:
    scores = torch.ones(2, 3)
    given = Attribution(scores, baselines=(SHARED, PER_GRAPH))
    assert given.baselines is not None
    assert given.baselines[0] is SHARED
    assert given.baselines[1] is PER_GRAPH
    assert given.learned is not None
    assert [b.kind for b in given.learned] == ["shared", "per graph"]
    chosen = given.select(GRAPHS, torch.tensor([2, 0])).baselines
    assert chosen is not None
    assert [b.tolist() for b in chosen] == [[7, 8], [[4, 5], [0, 1]]]
    assert Attribution(scores).learned is None


def test_parts_of_which_only_some_have_baselines_are_refused() -> None:
    parts = [bare_batch([2, 0]), bare_batch([1])]
    given = [Attribution(torch.ones(1, 2)), Attribution(torch.ones(1, 1), baselines=(SHARED,))]
    for order in (given, given[::-1]):
        with pytest.raises(ValueError, match="baselines of as many layers for all parts"):
            Attribution.concat(order, parts)

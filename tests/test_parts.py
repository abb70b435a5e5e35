"""A batch in parts: what is attributed, recorded and counted of the parts is that of the whole."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, cast

import pytest
import torch
from helpers import bare_batch, random_batch
from torch import Tensor

from attribench.checking.methods import ContractModel, contract_subject, random_graphs
from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch
from attribench.plugins.method import Attribution
from attribench.plugins.registry import METHODS
from attribench.scoring.passes import masked_passes

moments_of: Any = importlib.import_module("attribench.methods._moments")
PARTS = [bare_batch([2, 1]), bare_batch([3])]


def parts_of(*fields: dict[str, Any]) -> Attribution:
    """Join attributions of two parts with these fields."""
    parts = [
        Attribution(**{"scores": torch.full((1, graphs.num_edges), float(i)), **given})
        for i, (graphs, given) in enumerate(zip(PARTS, fields, strict=True))
    ]
    return Attribution.concat(parts, PARTS)


def test_joining_parts() -> None:
    joined = parts_of({}, {})
    assert joined.scores.tolist() == [[0, 0, 0, 1, 1, 1]]
    assert (joined.hard_mask, joined.baselines, joined.complete, joined.diagnostics) == (None, None, None, {})
    assert parts_of({"per_layer": False}, {"per_layer": False}).per_layer is False


def test_baselines_that_parts_share_stay_one_and_others_become_one_per_graph() -> None:
    same, other = torch.ones(4), torch.arange(4.0)
    wide = torch.stack([other, same])
    for first, second, expected in (
        (same, same.clone(), same),
        (same, other, torch.stack([same, same, other])),
        (wide, same, torch.stack([other, same, same])),
        (same, other[None], torch.stack([same, same, other])),
    ):
        joined = parts_of({"baselines": (first,)}, {"baselines": (second,)})
        assert joined.baselines is not None
        assert torch.equal(joined.baselines[0], expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": "relative"}, "one scale"),
        ({"per_layer": False}, "one scale"),
        ({"hard_mask": torch.ones(1, 3, dtype=torch.bool)}, "same fields"),
        ({"complete": torch.ones(1, dtype=torch.bool)}, "same fields"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parts_of({}, fields)


def cut(counts: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Cut a list of graphs, given their edges, as a plain loop does: a graph joins while it fits."""
    bounds, start, held = [], 0, 0
    for i, count in enumerate(counts):
        if i > start and held + count > most:
            bounds.append((start, i))
            start, held = i, 0
        held += count
    return [*bounds, (start, len(counts))]


@pytest.mark.parametrize("seed", range(30))
def test_parts_cover_the_batch_in_order_within_the_limit(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 9, (int(torch.randint(1, 12, (), generator=draw)),), generator=draw).tolist()
    batch = random_batch([(int(count) + 2, int(count)) for count in counts], seed)
    for most in (1, 2, 5, 8, 20, 100):
        parts = list(batch.parts(most))
        assert [(part.graphs.start, part.graphs.stop) for part in parts] == cut(counts, most)
        for part in parts:
            index = torch.arange(part.graphs.start, part.graphs.stop)
            assert part.batch.num_edges <= most or part.batch.num_graphs == 1
            assert torch.equal(torch.arange(part.edges.start, part.edges.stop), batch.edges_of(index))
            assert_same(part.batch, batch.select(index))


def assert_same(left: GraphBatch, right: GraphBatch) -> None:
    for name in ("edge_index", "node_ptr", "edge_ptr", "graph_key", "edge_key", "batch"):
        assert torch.equal(getattr(left, name), getattr(right, name)), name
    for level in ("node", "edge", "graph"):
        tensors = getattr(left, level), getattr(right, level)
        assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0] | tensors[1])


def test_a_batch_that_fits_is_one_part_and_is_not_copied() -> None:
    batch = bare_batch([3, 2])
    (part,) = batch.parts(5)
    assert part.batch is batch
    assert len(list(batch.parts(4))) == 2


def test_a_batch_of_no_graphs_is_one_part_of_none() -> None:
    (part,) = bare_batch([3]).select(torch.arange(0)).parts(5)
    assert (part.batch.num_graphs, part.graphs, part.edges) == (0, slice(0, 0), slice(0, 0))


def stream_of(depth: int, most: int) -> tuple[ContractModel, GraphBatch, Tensor]:
    """Return a model, a batch, and random gates for it."""
    graphs = random_graphs(9, "stream")
    gates = torch.rand(depth, graphs.num_edges, generator=torch.Generator().manual_seed(most), dtype=torch.float64)
    return cast(ContractModel, contract_subject(depth).model), graphs, gates


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("most", [1, 20, 10**6])
@pytest.mark.parametrize("per_graph", [None, False, True])
def test_a_stream_is_the_pass_over_the_whole_batch(depth: int, most: int, per_graph: bool | None) -> None:
    model, graphs, z = stream_of(depth, most)
    draw = torch.Generator().manual_seed(0)
    shape = (graphs.num_graphs, 6) if per_graph else (6,)
    baselines = (
        None if per_graph is None else [torch.randn(*shape, generator=draw, dtype=torch.float64) for _ in range(depth)]
    )
    with Gates(model) as gates:
        whole, stream = gates.record(graphs), gates.stream(graphs, most)
        assert stream.num_layers == depth
        assert torch.equal(stream.ones(), whole.ones())
        same = torch.equal if most == 10**6 else torch.allclose
        assert same(stream.logits, whole.logits)
        assert same(masked_passes(stream, [z], baselines)[0], whole.forward(z, baselines))
        recordings = list(stream.recordings())
    for k in range(depth):
        messages = torch.cat([recording.calls[k].messages for _, recording in recordings])
        assert same(messages, whole.calls[k].messages)
    assert [part.graphs.stop for part, _ in recordings][:-1] == [part.graphs.start for part, _ in recordings][1:]


@pytest.mark.parametrize("cached", [10**6, 15])
def test_a_stream_that_a_pass_may_hold_is_recorded_once_and_carries_gradients(
    cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, graphs, z = stream_of(2, 7)
    monkeypatch.setattr("attribench.model.recording.CACHED_EDGES", cached)
    parts = len(list(graphs.parts(cached)))
    assert parts == 1 or cached == 15
    z.requires_grad_()
    with Gates(model) as gates:
        whole = gates.record(graphs).forward(z)
        (expected,) = torch.autograd.grad(whole.sum(), z)
        assert bool((expected != 0).any())
        gates.forward_passes = 0
        stream = gates.stream(graphs, 10**6)
        parts_of_it = [recording.forward(z[:, part.edges]) for part, recording in stream.recordings()]
        (gradient,) = torch.autograd.grad(torch.cat(parts_of_it).sum(), z)
        torch.testing.assert_close(gradient, expected)
        list(stream.recordings())
        assert gates.forward_passes == 2 * parts
        again = gates.stream(graphs, 20)
        (found,) = masked_passes(again, [z.detach()])
        torch.testing.assert_close(found, whole.detach())
        assert [part.graphs for part, _ in again.recordings()] == [p.graphs for p in graphs.parts(min(cached, 20))]


def moments(values: Tensor) -> tuple[int, Tensor, Tensor]:
    return len(values), *torch.std_mean(values, dim=0, correction=0)


@pytest.mark.parametrize("counts", [(5,), (3, 4), (1, 1, 1), (2, 7, 1, 30), (1000, 1)])
def test_pooled_moments_are_those_of_all_values(counts: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(sum(counts))
    samples = [
        torch.randn(count, 4, generator=draw, dtype=torch.float64) * (k + 1) + k for k, count in enumerate(counts)
    ]
    count, std, mean = reduce(moments_of.pooled, map(moments, samples))
    expected = moments(torch.cat(samples))
    assert count == expected[0]
    torch.testing.assert_close((std, mean), expected[1:], rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:std_mean")
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_part_without_messages_changes_no_moment(place: int) -> None:
    samples = [torch.arange(8.0).view(4, 2), torch.ones(3, 2)]
    samples.insert(place, torch.empty(0, 2))
    count, std, mean = reduce(moments_of.pooled, map(moments, samples))
    expected = moments(torch.cat(samples))
    assert count == expected[0]
    torch.testing.assert_close((std, mean), expected[1:])


def test_the_bottleneck_of_smaller_passes_starts_from_the_same_statistics() -> None:
    kind = METHODS["information-bottleneck"]
    subject = contract_subject(2)
    built = []
    for most in (10**6, 15):
        method: Any = kind(subject=replace(subject, max_edges=most), seed=1)
        with method.gates() as gates:
            built.append(method._build(gates.stream(subject.train, most), 7))
    for whole, split in zip(*built, strict=True):
        torch.testing.assert_close(dict(whole.state_dict()), dict(split.state_dict()))

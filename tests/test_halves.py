"""Greedy erasure by halves: within every budget, 1-minimal, and the same in every batch; and its pilot."""

import importlib
from typing import Any

import pytest
import torch
from helpers import random_batch
from test_erasure import contract, finished, hard, interchangeable, one, plain_logits, trained_toy
from torch import Tensor

from attribench.base.errors import Skipped
from attribench.checking.methods import DEPTHS, MethodContract
from attribench.model.graphs import GraphBatch
from attribench.plugins.method import Attribution, Subject
from attribench.plugins.registry import METHODS

subsets: Any = importlib.import_module("attribench.methods._subsets")
pilots: Any = importlib.import_module("attribench.methods._pilot")
halves: Any = importlib.import_module("attribench.methods._halves")


def greedy(subject: Subject, graphs: GraphBatch, **options: Any) -> tuple[Attribution, int]:
    """Erase greedily; return also the number of passes."""
    kind = METHODS["erasure-greedy"]
    method = kind(kind.Config(**options), subject=subject)
    return method.attribute(graphs), method.forward_passes


def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which the number of sets that are evaluated, of each graph, is added from now on."""
    counts: list[int] = []
    original = subsets.Copies.evaluate

    def spy(self: Any, masks: Tensor) -> Any:
        counts.append(len(masks))
        return original(self, masks)

    monkeypatch.setattr(subsets.Copies, "evaluate", spy)
    return counts


def halved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which the sizes of graphs that are erased by halves are added from now on."""
    sizes: list[int] = []
    original = halves.Halves.run

    def spy(self: Any) -> None:
        sizes.extend(self.remaining.tolist())
        original(self)

    monkeypatch.setattr(halves.Halves, "run", spy)
    return sizes


def judged(subject: Subject, graph: GraphBatch, masks: list[Tensor], tolerance: float | None) -> Tensor:
    """Return ``(S,)``: whether a graph's masks keep the prediction and D* is within the tolerance, by the equations."""
    with torch.no_grad():
        rows = torch.stack([torch.ones_like(masks[0]), *masks]).double()
        logs = plain_logits(subject.model, graph, rows).log_softmax(1)
    change = (logs[0].exp() * (logs[0] - logs[1:])).sum(1)
    return (logs[1:].argmax(1) == logs[0].argmax()) & (change <= (torch.inf if tolerance is None else tolerance))


def minimal(subject: Subject, graph: GraphBatch, mask: Tensor, tolerance: float | None = None) -> bool:
    """Whether a mask may be, and none may be that is smaller by one message."""
    masks = [mask]
    for k, e in mask.nonzero().tolist():
        masks.append(mask.clone())
        masks[-1][k, e] = False
    may_be = judged(subject, graph, masks, tolerance).tolist()
    return may_be[0] and not any(may_be[1:])


def test_one_message_at_a_time_where_that_is_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the graph's size alone, to the last evaluation, and beside graphs that are erased by halves."""
    subject, graphs = contract(2, [(6, 12)] * 3 + [(9, 30)] * 2, seed=4)
    messages = 2 * graphs.num_edges_per_graph
    by_halves = halved(monkeypatch)
    whole, passes = greedy(subject, graphs)
    assert not by_halves
    assert finished(whole) == [True] * 5
    for limit in messages.unique().tolist():
        budget = limit * (limit + 1) // 2
        part, _ = greedy(subject, graphs, budget=budget)
        small = (messages <= limit).nonzero()[:, 0]
        assert sorted(by_halves) == sorted(messages[messages > limit].tolist())
        by_halves.clear()
        edges = graphs.edges_of(small)
        assert torch.equal(part.scores[:, edges], whole.scores[:, edges])
        assert torch.equal(hard(part)[:, edges], hard(whole)[:, edges])
    largest = int(messages.max())
    same, same_passes = greedy(subject, graphs, budget=largest * (largest + 1) // 2)
    assert torch.equal(same.scores, whole.scores)
    assert same_passes == passes
    by_halves.clear()
    greedy(subject, graphs, budget=largest * (largest + 1) // 2 - 1)
    assert by_halves == messages[messages == largest].tolist()


def test_the_default_budget_lets_graphs_of_400_messages_go_one_at_a_time() -> None:
    kind = METHODS["erasure-greedy"]
    sizes = torch.arange(1, 441)
    assert (pilots.allowance(kind.Config().budget, sizes) >= halves.one_at_a_time(sizes)).all()
    large = torch.tensor([3_200, 750_000])
    assert (pilots.allowance(10**12, large) * large <= pilots.MESSAGES_PER_GRAPH).all()
    assert pilots.allowance(kind.Config().budget, large)[0] > 3 * 3_200


@pytest.mark.parametrize("tolerance", [None, 0.01])
@pytest.mark.parametrize(("reserve", "share"), [(0, 20), (8, 8), (10**6, 8)])
def test_by_halves_ends_with_a_minimal_mask_that_keeps_the_prediction(
    tolerance: float | None, reserve: int, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each graph alone, within its budget; whether it is measured anew after each removal, sometimes, or never."""
    monkeypatch.setattr(halves, "RESERVE", reserve)
    subject, graphs = contract(2, [(14, 130)] * 3, seed=1)
    left = 0
    for g in range(3):
        graph = one(graphs, g)
        count = 2 * graph.num_edges
        assert count > 150
        tries = evaluated(monkeypatch)
        attribution, _ = greedy(subject, graph, budget=share * count, tolerance=tolerance)
        assert finished(attribution) == [True]
        assert sum(tries) <= share * count < count * (count + 1) // 2
        assert minimal(subject, graph, hard(attribution), tolerance)
        left += int(hard(attribution).sum())
        scores = attribution.scores
        assert torch.equal(scores == 1, hard(attribution))
        dropped = scores[scores < 1].sort().values
        assert torch.allclose(dropped, torch.arange(1.0, len(dropped) + 1) / (count + 1))
    assert left > 3


def test_by_halves_stays_within_every_budget_and_says_what_is_unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, graphs = contract(2, [(10, 50)], seed=1)
    count, ends = 2 * graphs.num_edges, set()
    assert count * (count + 1) // 2 > 900
    for budget in range(1, 900, 37):
        tries = evaluated(monkeypatch)
        attribution, passes = greedy(subject, graphs, budget=budget, tolerance=0.01)
        monkeypatch.undo()
        assert sum(tries) <= budget
        (done,) = finished(attribution)
        ends.add((done, budget >= count))
        if done:
            assert minimal(subject, graphs, hard(attribution), 0.01)
        else:
            assert hard(attribution).all()
            assert (attribution.scores == 1).all()
            assert budget >= count or not passes  # what cannot be measured once costs nothing
    assert ends == {(False, False), (False, True), (True, True)}


def test_by_halves_messages_that_are_alike_go_in_the_canonical_order(monkeypatch: pytest.MonkeyPatch) -> None:
    edges, need = [40, 40, 90, 5], [7, 38, 0, 2]
    subject, graphs = interchangeable(edges, need)
    by_halves = halved(monkeypatch)
    attribution, passes = greedy(subject, graphs, budget=300)
    assert sorted(by_halves) == [40, 40, 90]
    rank, counts = subsets.canonical_rank(graphs, 1), graphs.num_edges_per_graph[graphs.edge_graph]
    kept = rank >= counts - graphs["need"][graphs.edge_graph]
    assert finished(attribution) == [True] * 4
    assert torch.equal(hard(attribution), kept)
    assert torch.allclose(attribution.scores, torch.where(kept, 1.0, (rank + 1) / (counts + 1)))
    assert passes < greedy(subject, graphs)[1]


def test_by_halves_a_single_message_that_may_go_goes() -> None:
    """Where the tolerance is between the two smallest D* of removing one; without that message others may go."""
    subject, graphs = contract(1, [(10, 60)], seed=7)
    count = graphs.num_edges
    singles = (1 - torch.eye(count, dtype=torch.double))[:, None]
    with torch.no_grad():
        logs = plain_logits(subject.model, graphs, torch.cat([torch.ones_like(singles[:1]), singles])).log_softmax(1)
    change = (logs[0].exp() * (logs[0] - logs[1:])).sum(1)
    change[logs[1:].argmax(1) != logs[0].argmax()] = torch.inf
    tolerance = float(change.sort().values[:2].mean())
    attribution, _ = greedy(subject, graphs, budget=4 * count, tolerance=tolerance)
    assert finished(attribution) == [True]
    assert int(attribution.scores.argmin()) == int(change.argmin())
    assert int((~hard(attribution)).sum()) > 1
    assert minimal(subject, graphs, hard(attribution), tolerance)


def test_by_halves_ties_of_a_trained_model_do_not_depend_on_the_order_of_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, graphs = trained_toy()
    first, last = graphs.edge_ptr[:-1], graphs.edge_ptr[1:] - 1
    order = (first + last)[graphs.edge_graph] - torch.arange(graphs.num_edges)
    by_halves = halved(monkeypatch)
    attribution, _ = greedy(subject, graphs, budget=20)
    assert len(by_halves) > 5
    again, _ = greedy(subject, graphs.reorder_edges(order), budget=20)
    assert torch.equal(again.scores, attribution.scores[:, order])
    assert finished(again) == finished(attribution)
    assert any(finished(attribution))


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("budget", [20, 40, 70])
def test_by_halves_keeps_the_contract_of_methods(depth: int, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph alone equals the same graph in a batch, the order of edges and graphs does not matter, and so on."""
    kind: Any = METHODS["erasure-greedy"]
    suite = MethodContract(type("ByHalves", (kind,), {"quick": {"budget": budget, "pilot": 0}}), depth)
    sizes = halved(monkeypatch)
    ends = finished(suite.fitted().attribute(suite.graphs))
    assert any(ends)
    messages = depth * suite.graphs.num_edges_per_graph
    assert len(sizes) == int(((halves.one_at_a_time(messages) > budget) & (messages <= budget)).sum())
    assert bool(sizes) == (depth == 3 or budget < 55)
    assert {title: wrong for title, check in suite.checks() if (wrong := check()) is not None} == {}


def test_by_halves_a_graph_of_hundreds_of_messages_alone_equals_the_same_graph_among_others() -> None:
    subject, graphs = contract(2, [(14, 120), (12, 100), (14, 130), (13, 110), (9, 40)], seed=2)
    options = {"budget": 700, "tolerance": 0.02}
    whole, _ = greedy(subject, graphs, **options)
    assert len(set(finished(whole))) == 2
    for g in range(graphs.num_graphs):
        alone, _ = greedy(subject, one(graphs, g), **options)
        mine = whole.select(graphs, torch.tensor([g]))
        assert finished(alone) == finished(mine)
        assert torch.equal(alone.scores, mine.scores)
        assert torch.equal(hard(alone), hard(mine))


def test_a_graph_of_three_quarters_of_a_million_messages_costs_no_pass() -> None:
    subject, _ = contract(3, [(3, 2)])
    graphs = random_batch([(500, 250_000), (3, 2)]).to(torch.float64)
    attribution, passes = greedy(subject, graphs)
    assert finished(attribution) == [False, True]
    assert hard(attribution)[:, :250_000].all()
    assert 0 < passes == greedy(subject, one(graphs, 1))[1]


def test_the_pilot_of_greedy_erasure_says_what_it_would_need(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, _ = interchangeable([3] * 8 + [60, 50], [1] * 10)
    kind = METHODS["erasure-greedy"]

    def passes(**options: Any) -> int:
        method = kind(kind.Config(**options), subject=subject)
        method.fit()
        return method.forward_passes

    with pytest.raises(Skipped) as raised:
        passes(budget=49)
    assert str(raised.value) == (
        "greedy erasure finishes fewer than nine of ten validation graphs within its budget: a graph of 60 messages is "
        "given 49 evaluations; removing each of them once takes 60, and dropping one after the other up to 1830"
    )
    monkeypatch.setattr(pilots, "MESSAGES_PER_GRAPH", 60 * 45)
    with pytest.raises(Skipped, match="of 60 messages is given 45 evaluations"):
        passes(budget=49)
    monkeypatch.undo()
    assert passes(budget=300) > 0
    assert passes(budget=1830) == passes() == passes(budget=1, pilot=0) == passes(budget=6, pilot=8) == 0


def test_no_more_is_erased_once_it_is_skipped_and_the_model_is_let_go() -> None:
    subject, graphs = contract(2, [(9, 30), (12, 60), (16, 120)], seed=1)
    messages = 2 * graphs.num_edges_per_graph
    assert (messages.sort().values.diff() > messages.sort().values[:-1] / 4).all()  # each is erased by itself
    kind = METHODS["erasure-greedy"]
    method = kind(kind.Config(budget=int(messages.max()), tolerance=1e-9), subject=subject)
    with pytest.raises(Skipped) as raised:
        method.fit()
    _, whole = greedy(subject, graphs, budget=int(messages.max()), tolerance=1e-9)
    assert 0 < method.forward_passes < whole
    assert not any(module._forward_pre_hooks for module in subject.model.modules()), raised  # whose traceback is kept

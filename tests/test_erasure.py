"""Erasure search against brute force over all subsets, and its greedy approximation against a plain loop.

``plain_logits`` runs the models by their equations, without the harness's gates.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, combinations
from math import comb
from typing import Any

import pytest
import torch
from helpers import bare_batch, random_batch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.nn import MessagePassing

from attribench.base.errors import Skipped
from attribench.checking.methods import ContractModel
from attribench.model.graphs import GraphBatch
from attribench.model.model import GraphModel
from attribench.model.output import GraphClassification
from attribench.plugins.configs import make_config
from attribench.plugins.method import Attribution, Subject
from attribench.plugins.registry import METHODS, TASKS
from attribench.plugins.task import TaskSeeds, Workshop, build_problem, without_cache

subsets: Any = importlib.import_module("attribench.methods._subsets")
pilots: Any = importlib.import_module("attribench.methods._pilot")
halves: Any = importlib.import_module("attribench.methods._halves")
BUDGETS = (1, 3, 20, 60, 400)


def plain_logits(model: Any, graph: GraphBatch, z: Tensor, baselines: Any = None) -> Tensor:
    """Return the logits ``(S, C)`` of one graph for S choices of gates ``(S, L, E)``; baselines zero or one per layer.

    Knows the R-GCN of the contract suite (sum of W_r h_u, root weight, tanh, sum of nodes) and the toy's (Eq. 13).
    """
    toy = not isinstance(model, ContractModel)
    (u, v), relation = graph.edge_index, graph["edge_type"]
    h = (model.initial if toy else model.embed)(graph["x"]).expand(len(z), -1, -1)
    for k, layer in enumerate(model.layers):
        messages = torch.einsum("seh,ehd->sed", h[:, u], layer.weight[relation])
        if toy:
            messages = (messages + layer.bias[relation]).relu()
        messages = z[:, k, :, None] * messages
        if baselines is not None:
            messages = messages + (1 - z[:, k, :, None]) * baselines[k]
        total = torch.zeros_like(h).index_add(1, v, messages)
        rgcn = total if toy else (total + h @ layer.root + layer.bias).tanh()
        h = h + rgcn if toy and len(model.layers) > 1 else rgcn
    logits: Tensor = model.readout(h[:, 0] if toy else h.sum(1))
    return logits


def hard(attribution: Attribution) -> Tensor:
    assert attribution.hard_mask is not None
    return attribution.hard_mask


def finished(attribution: Attribution) -> list[bool]:
    assert attribution.complete is not None
    return attribution.complete.tolist()


def one(graphs: GraphBatch, index: int) -> GraphBatch:
    return graphs.select(torch.tensor([index]))


def contract(depth: int, sizes: list[tuple[int, int]], seed: int = 0) -> tuple[Subject, GraphBatch]:
    """A random R-GCN whose messages weigh enough to decide, and random graphs of at most these sizes.

    No two edges join the same nodes, so that no two messages change the output alike.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ContractModel(depth).double().eval()
    for layer in model.layers:
        layer.weight.data.mul_(4)  # type: ignore[operator]
    graphs = random_batch(sizes, seed).to(torch.float64)
    pairs = graphs.edge_index.T.tolist()
    graphs = graphs.keep_edges(torch.tensor([pairs.index(pair) == e for e, pair in enumerate(pairs)]))
    return Subject(model, GraphClassification(), graphs, graphs, depth), graphs


def trained_toy() -> tuple[Subject, GraphBatch]:
    """A toy that was trained for a moment, so that some of its predictions hang on several messages."""
    kind = TASKS["toy"]
    options = {**kind.quick, "train": 200, "epochs": 15, "validation": 20, "test": 20}
    toy = kind(make_config("toy", kind.Config, options))
    problem = build_problem(toy, TaskSeeds(1, 1), Workshop(torch.device("cpu"), without_cache))
    graphs = problem.splits["test"].graphs.to(torch.float64)
    return Subject(problem.model.double(), problem.output, graphs, graphs, 1), graphs


@dataclass
class Brute:
    """What trying every subset of one graph's messages finds: the smallest size, the first subset, and its number."""

    size: int
    mask: Tensor
    tried: int


def brute_force(subject: Subject, graph: GraphBatch) -> Brute:
    num_layers, count = subject.num_layers, subject.num_layers * graph.num_edges
    order = list(chain.from_iterable(combinations(range(count), size) for size in range(count + 1)))
    tried = torch.zeros(len(order), count, dtype=torch.bool)
    for row, chosen in enumerate(order):
        tried[row, list(chosen)] = True
    masks = tried[:, subsets.canonical_rank(graph, num_layers)]  # (S, L, E)
    classes = plain_logits(subject.model, graph, masks.double()).argmax(-1)
    keeps = classes == classes[-1]  # the last subset is everything
    first = int(keeps.nonzero()[0])
    return Brute(int(masks.flatten(1).sum(1)[keeps].min()), masks[first], first + 1)


CASES: dict[str, Callable[[], tuple[Subject, GraphBatch]]] = {
    "one layer": lambda: contract(1, [(3, 2), (4, 8), (5, 8), (3, 6), (4, 7), (5, 8), (4, 5), (5, 7), (4, 1), (6, 8)]),
    "two layers": lambda: contract(2, [(3, 4), (3, 3), (4, 5), (3, 5), (4, 5), (4, 4), (3, 5), (2, 1), (4, 5)], 2),
    "trained toy": trained_toy,
}


# In a star, edges of one colour send equal messages: which of them goes first is a tie.
without_ties = pytest.mark.parametrize("case", ["one layer", "two layers"], indirect=True)


@dataclass
class Case:
    subject: Subject
    graphs: GraphBatch
    truth: list[Brute]

    def run(self, name: str = "erasure", **options: Any) -> Attribution:
        kind = METHODS[name]
        return kind(make_config(name, kind.Config, options), subject=self.subject).attribute(self.graphs)

    @cached_property
    def exact(self) -> Attribution:
        return self.run()

    @cached_property
    def greedy(self) -> Attribution:
        return self.run("erasure-greedy")

    def masks(self, attribution: Attribution) -> list[Tensor]:
        return [hard(attribution)[:, self.edges(g)] for g in range(self.graphs.num_graphs)]

    def edges(self, g: int) -> Tensor:
        return self.graphs.edges_of(torch.tensor([g]))


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    subject, graphs = CASES[request.param]()
    with torch.no_grad():
        truth = [brute_force(subject, one(graphs, g)) for g in range(graphs.num_graphs)]
    assert len({brute.size for brute in truth}) >= 3  # some need nothing, some several messages
    return Case(subject, graphs, truth)


def test_sizes_equal_brute_force_and_ties_go_to_the_first_subset(case: Case) -> None:
    attribution = case.exact
    assert attribution.complete is not None
    assert attribution.complete.all()
    assert attribution.diagnostics["size"].tolist() == [brute.size for brute in case.truth]
    for mask, brute in zip(case.masks(attribution), case.truth, strict=True):
        assert torch.equal(mask, brute.mask)
    assert torch.equal(attribution.scores > 0, hard(attribution))
    assert attribution.scores.unique().tolist() == [0, 1]


def test_the_mask_keeps_the_prediction_with_a_zero_baseline_and_no_smaller_one_does(case: Case) -> None:
    masks = case.masks(case.exact)
    with torch.no_grad():
        for g, mask in enumerate(masks):
            graph = one(case.graphs, g)
            smaller = [mask, torch.ones_like(mask)]
            for chosen in combinations(range(mask.numel()), max(0, int(mask.sum()) - 1)):
                smaller.append(torch.zeros_like(mask))
                smaller[-1].view(-1)[list(chosen)] = True
            classes = plain_logits(case.subject.model, graph, torch.stack(smaller).double()).argmax(-1)
            assert classes[0] == classes[1]
            if mask.any():
                assert (classes[2:] != classes[1]).all()


def test_graphs_whose_empty_graph_keeps_the_prediction_retain_nothing(case: Case) -> None:
    with torch.no_grad():
        for g, mask in enumerate(case.masks(case.exact)):
            graph = one(case.graphs, g)
            ends = torch.stack([torch.zeros_like(mask), torch.ones_like(mask)]).double()
            empty, full = plain_logits(case.subject.model, graph, ends).argmax(-1)
            assert bool(mask.any()) == bool(empty != full)


def test_the_number_of_subsets_in_one_pass_changes_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """One subset of all graphs a pass, then a few while graphs are done: the same as thousands at once."""
    whole = case.exact
    monkeypatch.setattr(subsets, "MESSAGES_AT_ONCE", 60)
    parts = case.run()
    assert torch.equal(parts.scores, whole.scores)
    assert torch.equal(hard(parts), hard(whole))


@without_ties
def test_the_number_of_candidates_in_one_pass_changes_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = case.greedy
    for at_once in (1, 60):
        monkeypatch.setattr(subsets, "MESSAGES_AT_ONCE", at_once)
        parts = case.run("erasure-greedy")
        assert torch.equal(parts.scores, whole.scores)
        assert torch.equal(hard(parts), hard(whole))


@pytest.mark.parametrize(("boundary", "at_once"), [(False, 30_000), (True, 30_000), (True, 60)])
def test_graphs_beyond_the_budget_are_unfinished_and_retain_everything(
    case: Case, boundary: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph whose n-th subset is the first to keep its prediction is finished by a budget of n, not by n - 1."""
    monkeypatch.setattr(subsets, "MESSAGES_AT_ONCE", at_once)
    needs = sorted({brute.tried for brute in case.truth})
    budgets = [n + delta for n in needs[1:4] for delta in (-1, 0)] if boundary else BUDGETS
    for budget in budgets:
        attribution = case.run(budget=budget)
        assert attribution.complete is not None
        assert attribution.complete.tolist() == [brute.tried <= budget for brute in case.truth]
        for g, (mask, brute) in enumerate(zip(case.masks(attribution), case.truth, strict=True)):
            done = brute.tried <= budget
            assert torch.equal(mask, brute.mask if done else torch.ones_like(mask))
            assert int(attribution.diagnostics["size"][g]) == (brute.size if done else mask.numel())
            if not done:
                assert (attribution.scores[:, case.edges(g)] == 1).all()


def test_skipped_where_the_budget_is_too_small_for_some_of_the_first_validation_graphs(case: Case) -> None:
    kind = METHODS["erasure"]
    order = sorted(range(len(case.truth)), key=lambda g: -case.truth[g].tried)  # so that the first of them take long
    subject = replace(case.subject, validation=case.graphs.select(torch.tensor(order)))
    ends = set()
    for pilot in (1, 5, 10**6):
        needs = [case.truth[g].tried for g in order[:pilot]]
        for budget in sorted({*needs, 1}):
            method = kind(kind.Config(budget=budget, pilot=pilot), subject=subject)
            done = sum(need <= budget for need in needs)
            ends.add(10 * done < 9 * len(needs))
            if 10 * done < 9 * len(needs):
                with pytest.raises(Skipped, match=f"fewer than nine of ten .* within {budget} subsets"):
                    method.fit()
            else:
                method.fit()
    assert ends == {True, False}
    kind(kind.Config(budget=1, pilot=0), subject=subject).fit()


def test_no_more_is_searched_once_it_is_skipped_and_the_model_is_let_go(case: Case) -> None:
    kind = METHODS["erasure"]
    subject = replace(case.subject, validation=case.graphs)
    whole, first = kind(kind.Config(budget=1), subject=subject), kind(kind.Config(budget=1), subject=subject)
    whole.attribute(case.graphs)
    with pytest.raises(Skipped) as raised:
        first.fit()
    assert first.forward_passes < whole.forward_passes
    assert not any(module._forward_pre_hooks for module in subject.model.modules()), raised  # whose traceback is kept


class Total(MessagePassing):
    def __init__(self) -> None:
        super().__init__(aggr="sum")

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        out: Tensor = self.propagate(edge_index, x=x)
        return out

    def message(self, x_j: Tensor) -> Tensor:
        return torch.ones_like(x_j)


class AtLeast(GraphModel):
    """Says yes where at least ``need`` messages arrive: all messages are interchangeable."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Total()

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        count = self.layer(graphs["x"], graphs.edge_index)[graphs.node_ptr[:-1] + 1, 0]
        return torch.stack([torch.zeros_like(count), count - graphs["need"] + 0.5], dim=-1)


def interchangeable(edges: list[int], need: list[int]) -> tuple[Subject, GraphBatch]:
    graphs = bare_batch(edges)
    graphs.graph["need"] = torch.tensor(need)
    return Subject(AtLeast(), GraphClassification(), graphs, graphs, 1), graphs


def test_a_graph_that_needs_nothing_beside_one_that_needs_everything() -> None:
    subject, graphs = interchangeable([5, 4, 0], [5, 0, 0])
    attribution = METHODS["erasure-greedy"](subject=subject).attribute(graphs)
    assert hard(attribution).tolist() == [[True] * 5 + [False] * 4]
    assert sorted(attribution.scores[0, 5:].tolist()) == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5])


def test_ties_are_random_by_graph_the_same_in_every_order_and_batch() -> None:
    subject, graphs = interchangeable([7] * 12, [2] * 12)
    method = METHODS["erasure"](subject=subject)
    mask = hard(method.attribute(graphs))
    assert torch.equal(mask, subsets.canonical_rank(graphs, 1) < 2)
    chosen = mask.view(12, 7)
    assert (chosen.sum(1) == 2).all()
    assert len(chosen.unique(dim=0)) > 3  # not always those that are stored first
    draw = torch.Generator().manual_seed(1)
    order = (torch.arange(12)[:, None] * 7 + torch.stack([torch.randperm(7, generator=draw) for _ in range(12)])).view(
        -1
    )
    moved = hard(method.attribute(graphs.reorder_edges(order)))
    assert torch.equal(moved, mask[:, order])
    assert not torch.equal(moved, mask)
    index = torch.randperm(12, generator=draw)[:5]
    fewer = hard(method.attribute(graphs.select(index)))
    assert torch.equal(fewer, mask[:, graphs.edges_of(index)])
    assert torch.equal(hard(METHODS["erasure"](subject=subject, seed=9).attribute(graphs)), mask)


@pytest.mark.parametrize(
    "name",
    [
        "erasure",
        "erasure-greedy",
    ],
)
def test_ties_of_a_trained_model_do_not_depend_on_the_order_of_edges(name: str) -> None:
    subject, graphs = trained_toy()
    graphs = graphs.select(torch.arange(10))
    first, last = graphs.edge_ptr[:-1], graphs.edge_ptr[1:] - 1
    order = (first + last)[graphs.edge_graph] - torch.arange(graphs.num_edges)
    method = METHODS[name](subject=subject)
    scores = method.attribute(graphs).scores
    assert torch.equal(method.attribute(graphs.reorder_edges(order)).scores, scores[:, order])


def test_a_graph_keeps_the_first_subset_that_was_found_while_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of one size are searched together, here with one subset of each in a pass."""
    subject, graphs = contract(1, [(9, 6)] * 14, seed=0)
    assert graphs.num_edges_per_graph.unique(return_counts=True)[1].max() > 8
    monkeypatch.setattr(subsets, "MESSAGES_AT_ONCE", 1)
    mask = hard(METHODS["erasure"](subject=subject).attribute(graphs))
    with torch.no_grad():
        for g in range(graphs.num_graphs):
            assert torch.equal(mask[:, graphs.edges_of(torch.tensor([g]))], brute_force(subject, one(graphs, g)).mask)


@pytest.mark.parametrize("at_once", [1, 30_000])
def test_greedy_ties_go_in_the_canonical_order(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subsets, "MESSAGES_AT_ONCE", at_once)
    subject, graphs = interchangeable([5, 5, 4, 6], [2, 3, 1, 6])
    attribution = METHODS["erasure-greedy"](subject=subject).attribute(graphs)
    rank, counts = subsets.canonical_rank(graphs, 1), graphs.num_edges_per_graph[graphs.edge_graph]
    kept = rank >= counts - graphs["need"][graphs.edge_graph]
    assert torch.equal(hard(attribution), kept)
    assert torch.allclose(attribution.scores, torch.where(kept, 1.0, (rank + 1) / (counts + 1)))


def test_canonical_rank_numbers_each_graphs_messages_over_all_layers() -> None:
    graphs = bare_batch([4, 0, 6])
    rank = subsets.canonical_rank(graphs, 3)
    for g, count in enumerate((4, 0, 6)):
        assert sorted(rank[:, graphs.edge_graph == g].flatten().tolist()) == list(range(3 * count))
    assert not torch.equal(rank[0].argsort(), rank[1].argsort())


def test_budget_to_the_last_subset_by_hand() -> None:
    """Of n interchangeable messages, ``need`` are found after all smaller subsets and one more."""
    edges, need = [6, 6, 6, 4, 4, 5], [0, 2, 3, 3, 9, 5]
    subject, graphs = interchangeable(edges, need)
    tried = [1 + sum(comb(n, size) for size in range(k)) if 0 < k <= n else 1 for n, k in zip(edges, need, strict=True)]
    assert tried == [1, 8, 23, 12, 1, 32]
    kind = METHODS["erasure"]
    for budget in range(1, 35):
        attribution = kind(kind.Config(budget=budget), subject=subject).attribute(graphs)
        assert attribution.complete is not None
        done = [n <= budget for n in tried]
        assert attribution.complete.tolist() == done
        sizes = [(k if k <= n else 0) if finished else n for n, k, finished in zip(edges, need, done, strict=True)]
        assert attribution.diagnostics["size"].tolist() == sizes


@pytest.mark.parametrize("name", ["erasure", "erasure-greedy"])
def test_graphs_without_messages_are_finished_and_retain_nothing(name: str) -> None:
    subject, graphs = interchangeable([0, 3, 0], [1, 2, 0])
    attribution = METHODS[name](subject=subject).attribute(graphs)
    assert attribution.complete is None or attribution.complete.all()
    assert int(hard(attribution).sum()) == 2


def test_graphs_without_messages_are_not_copied_thousands_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    original = subsets.Copies.__init__

    def spy(self: Any, *args: Any) -> None:
        original(self, *args)
        made.append(self.recording.graphs.num_graphs)

    monkeypatch.setattr(subsets.Copies, "__init__", spy)
    subject, graphs = interchangeable([0] * 3, [1] * 3)
    METHODS["erasure"](subject=subject).attribute(graphs)
    assert max(made) <= 100 * graphs.num_graphs


def plain_greedy(subject: Subject, graph: GraphBatch, tolerance: float = torch.inf) -> tuple[Tensor, Tensor]:
    """Remove one message at a time; return the mask and the scores ``(L, E)``."""
    shape = (subject.num_layers, graph.num_edges)
    mask, scores = torch.ones(shape, dtype=torch.double), torch.ones(shape, dtype=torch.double)
    reference = plain_logits(subject.model, graph, mask[None])[0]
    for turn in range(1, mask.numel() + 1):
        changes: dict[tuple[int, int], float] = {}
        for k, e in mask.nonzero().tolist():
            without = mask.clone()
            without[k, e] = 0
            logits = plain_logits(subject.model, graph, without[None])[0]
            if logits.argmax() == reference.argmax():
                p = reference.softmax(0)
                change = float((p * (p.log() - logits.log_softmax(0))).sum())
                changes |= {(k, e): change} if change <= tolerance else {}
        if not changes:
            break
        least = min(changes, key=lambda message: changes[message])
        mask[least], scores[least] = 0, turn / (mask.numel() + 1)
    return mask.bool(), scores


@without_ties
def test_greedy_erasure_against_a_plain_loop(case: Case) -> None:
    attribution = case.greedy
    with torch.no_grad():
        for g, mask in enumerate(case.masks(attribution)):
            expected, scores = plain_greedy(case.subject, one(case.graphs, g))
            assert torch.equal(mask, expected)
            assert torch.allclose(attribution.scores[:, case.edges(g)].double(), scores, atol=1e-6)


@without_ties
def test_greedy_erasure_within_a_tolerance_against_a_plain_loop(case: Case) -> None:
    masks = case.masks(case.run("erasure-greedy", tolerance=0.03))
    with torch.no_grad():
        for g, mask in enumerate(masks):
            assert torch.equal(mask, plain_greedy(case.subject, one(case.graphs, g), 0.03)[0])
    kept, without = (sum(int(mask.sum()) for mask in some) for some in (masks, case.masks(case.greedy)))
    assert kept > without > 0


def test_greedy_erasure_ends_where_no_single_removal_keeps_the_prediction(case: Case) -> None:
    removed = 0
    with torch.no_grad():
        for g, mask in enumerate(case.masks(case.greedy)):
            graph = one(case.graphs, g)
            rows = [torch.ones_like(mask), mask]
            for k, e in mask.nonzero().tolist():
                rows.append(mask.clone())
                rows[-1][k, e] = False
            classes = plain_logits(case.subject.model, graph, torch.stack(rows).double()).argmax(-1)
            assert classes[1] == classes[0]
            assert (classes[2:] != classes[0]).all()
            assert int(mask.sum()) >= case.truth[g].size
            removed += len(rows) - 2 < mask.numel()
    assert removed


def test_greedy_scores_order_messages_by_when_they_were_dropped(case: Case) -> None:
    """Dropping the messages in the order of their scores keeps the prediction all along; what is left scores 1."""
    attribution = case.greedy
    assert torch.equal(attribution.scores == 1, hard(attribution))
    with torch.no_grad():
        for g in range(case.graphs.num_graphs):
            scores = attribution.scores[:, case.edges(g)]
            dropped = scores[scores < 1].sort().values
            assert torch.allclose(dropped, torch.arange(1.0, len(dropped) + 1) / (scores.numel() + 1))
            masks = torch.stack([torch.ones_like(scores), *(scores > value for value in dropped)]).double()
            classes = plain_logits(case.subject.model, one(case.graphs, g), masks).argmax(-1)
            assert (classes == classes[0]).all()


def test_greedy_takes_the_removal_that_changes_the_output_least() -> None:
    """On one graph by hand: the first message dropped is the one with the smallest KL among those allowed."""
    subject, graphs = contract(1, [(9, 8)], seed=3)
    assert graphs.num_edges == 8
    scores = METHODS["erasure-greedy"](subject=subject).attribute(graphs).scores[0]
    masks = 1 - torch.eye(8, dtype=torch.double)[:, None]
    with torch.no_grad():
        full = plain_logits(subject.model, graphs, torch.ones(1, 1, 8).double())
        logits = plain_logits(subject.model, graphs, masks)
    change = F.kl_div(logits.log_softmax(1), full.softmax(1).expand(8, -1), reduction="none").sum(1)
    change[logits.argmax(1) != full.argmax(1)] = torch.inf
    assert torch.isfinite(change).any()
    assert int(scores.argmin()) == int(change.argmin())
    assert float(scores.min()) == pytest.approx(1 / 9)


def test_the_messages_of_all_evaluations_of_a_graph_are_bounded(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each graph has a budget of its own, the smaller the more messages it has; the reason to skip says so."""
    messages = case.subject.num_layers * case.graphs.num_edges_per_graph
    ends = set()
    for most in (20, 200):
        monkeypatch.setattr(pilots, "MESSAGES_PER_GRAPH", most)
        bounded = case.run()
        limits = [most // count for count in messages.clamp(min=1).tolist()]
        assert finished(bounded) == [brute.tried <= limit for brute, limit in zip(case.truth, limits, strict=True)]
        ends |= set(finished(bounded))
        for done, mask, brute in zip(finished(bounded), case.masks(bounded), case.truth, strict=True):
            assert torch.equal(mask, brute.mask if done else torch.ones_like(mask))
    assert ends == {True, False}
    monkeypatch.setattr(pilots, "MESSAGES_PER_GRAPH", 1)
    kind = METHODS["erasure"]
    method = kind(kind.Config(pilot=len(case.truth)), subject=replace(case.subject, validation=case.graphs))
    with pytest.raises(Skipped, match=r"within 100000 subsets each \(\d+ of a graph of \d+ messages\); erasure-greedy"):
        method.fit()

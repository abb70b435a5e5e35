"""The toy: labels, gold and audit against stars worked out by hand, and models that cheat."""

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from attribench.model.graphs import GraphBatch
from attribench.model.model import GraphModel
from attribench.plugins.registry import TASKS
from attribench.plugins.task import Split, TaskSeeds, Workshop, build_problem, without_cache

TASKS["toy"]
toy: Any = importlib.import_module("attribench.tasks.toy")


def stars(queries: list[tuple[int, int]], colours: list[list[int]]) -> GraphBatch:
    edges, nodes = torch.tensor([len(c) for c in colours]), torch.tensor([len(c) + 1 for c in colours])
    edge_ptr, node_ptr = (torch.cat([torch.zeros(1, dtype=torch.long), x.cumsum(0)]) for x in (edges, nodes))
    local = torch.cat([torch.arange(len(c)) for c in colours])
    first = torch.repeat_interleave(node_ptr[:-1], edges)
    return GraphBatch(
        torch.stack([first + 1 + local, first]),
        node_ptr,
        edge_ptr,
        torch.arange(len(colours)),
        local,
        edge={"edge_type": torch.tensor([colour for star in colours for colour in star])},
        graph={"query": torch.tensor(queries)},
    )


def test_labels_and_gold_by_hand() -> None:
    graphs = stars([(0, 1), (1, 0), (2, 5), (3, 4)], [[0, 0, 1, 2], [0, 0, 1, 2], [5, 2], [0, 1, 2]])
    assert toy.label(graphs).tolist() == [1, 0, 0, 0]  # 2 > 1; 1 < 2; 1 = 1; 0 = 0
    assert toy.gold(graphs).tolist() == [1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("share", [None, 0.25, 0.5])
def test_stars_are_drawn_as_described(share: float | None) -> None:
    config = toy.ToyConfig(colours=5, min_leaves=3, max_leaves=7, positive_share=share)
    split = toy.make_split(config, 400, 3, "train")
    graphs = split.graphs
    assert sorted(graphs.num_edges_per_graph.unique().tolist()) == [3, 4, 5, 6, 7]
    assert sorted(graphs["edge_type"].unique().tolist()) == [0, 1, 2, 3, 4]
    assert bool((graphs["query"][:, 0] != graphs["query"][:, 1]).all())
    one_hot = graphs["x"].view(-1, 2, 5)
    assert torch.equal(one_hot.argmax(-1), graphs["query"][graphs.batch])
    assert torch.equal(graphs.edge_index[1], graphs.node_ptr[graphs.edge_graph])  # all edges point at the centroid
    if share is not None:
        assert int(split.labels.sum()) == 400 * share
    assert not torch.equal(toy.make_split(config, 400, 4, "train").graphs["edge_type"][:50], graphs["edge_type"][:50])


class Judgement(GraphModel):
    """Answers by a rule on the counts of colour x and y, and on the number of leaves."""

    def __init__(self, rule: Any) -> None:
        super().__init__()
        self.rule = rule

    def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
        query = graphs["query"][graphs.edge_graph]
        x, y = (graphs.sum_per_graph((graphs["edge_type"] == query[:, i]).long()) for i in (0, 1))
        yes = self.rule(x, y, graphs.num_edges_per_graph).double()
        return torch.stack([1 - yes, yes], dim=-1)


RULES: dict[str, tuple[Any, str | None]] = {
    "honest": (lambda x, y, n: x > y, None),
    "ignores y": (lambda x, y, n: x > n / 6, "recolour_gold"),
    "counts the others": (lambda x, y, n: 2 * x + (n - x - y) > n, None),  # the same as x > y
    "always yes": (lambda x, y, n: x == x, "remove_gold"),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_audit_tells_cheats_from_honest_models(rule: str) -> None:
    config = toy.ToyConfig()
    split = toy.make_split(config, 500, 0, "test")
    accuracies, changed = toy.audit(Judgement(RULES[rule][0]), split, config)
    assert min(changed.values()) > 0.3
    wrong = RULES[rule][1]
    if wrong is None:
        assert set(accuracies.values()) == {1.0}
    else:
        assert accuracies[f"audit_{wrong}"] < 0.9


def test_the_audit_knows_what_each_intervention_is() -> None:
    config, seen = toy.ToyConfig(), []

    class Recorder(Judgement):
        def decode(self, graphs: GraphBatch, state: Any) -> Tensor:
            seen.append(graphs)
            return super().decode(graphs, state)

    split: Split = toy.make_split(config, 300, 0, "test")
    toy.audit(Recorder(RULES["honest"][0]), split, config)
    before, (other, gold, fewer_other, fewer_gold) = split.graphs, seen
    assert split.gold is not None
    is_gold = split.gold[0]
    assert torch.equal(other["edge_type"][is_gold], before["edge_type"][is_gold])
    assert torch.equal(toy.gold(other), is_gold)  # recoloured to colours outside the query
    assert torch.equal(gold["edge_type"][~is_gold], before["edge_type"][~is_gold])
    for after, kind in ((fewer_other, ~is_gold), (fewer_gold, is_gold)):
        assert int(after.num_edges_per_graph.min()) >= config.min_leaves
        removed = before.num_edges_per_graph - after.num_edges_per_graph
        mine = toy.gold(after) if kind is is_gold else ~toy.gold(after)
        assert torch.equal(before.sum_per_graph(kind.long()) - after.sum_per_graph(mine.long()), removed)
        assert int(removed.max()) > 2


@pytest.mark.parametrize(
    ("options", "silent"),
    [
        ({"colours": 3}, ["recolour_other"]),
        ({"colours": 4, "min_leaves": 6, "max_leaves": 6}, ["remove_gold", "remove_other"]),
        ({"colours": 3, "min_leaves": 6, "max_leaves": 6}, ["recolour_other", "remove_gold", "remove_other"]),
    ],
)
def test_the_audit_asks_of_gold_edges_and_of_others(options: dict[str, int], silent: list[str]) -> None:
    """An intervention that can change nothing is no reason against the gold, if another one changed such edges."""
    config = toy.ToyConfig(**options)
    split = toy.make_split(config, 300, 0, "test")
    accuracies, changed = toy.audit(Judgement(RULES["honest"][0]), split, config)
    assert set(accuracies.values()) == {1.0}
    assert sorted(name for name, share in changed.items() if share == 0) == [f"audit_{x}_changed" for x in silent]
    assert toy.asked_of_both(changed) is ("remove_other" not in silent or "recolour_other" not in silent)


def test_gold_is_not_confirmed_by_an_audit_that_asks_nothing_of_other_edges() -> None:
    kind = TASKS["toy"]
    options = {"colours": 3, "min_leaves": 5, "max_leaves": 5, "test": 40, "train": 1500}
    config = kind.Config(**{**kind.quick, **options})
    problem = build_problem(kind(config), TaskSeeds(0, 0), Workshop(torch.device("cpu"), without_cache))
    accuracies = {
        k: v for k, v in problem.figures.items() if k == "test" or (k.startswith("audit_") and "_ch" not in k)
    }
    assert min(accuracies.values()) >= toy.AUDIT_LEVEL
    assert problem.gold_confirmed is False


def test_a_residual_model_of_three_layers_has_its_gold_as_a_union() -> None:
    kind = TASKS["toy"]
    config = kind.Config(**{**kind.quick, "layers": 3, "epochs": 1})
    problem = build_problem(kind(config), TaskSeeds(0, 0), Workshop(torch.device("cpu"), without_cache))
    assert problem.subject().num_layers == 3
    gold = problem.splits["test"].gold
    assert gold is not None
    assert len(gold) == 1


def test_ties_may_count_as_yes() -> None:
    graphs = stars([(0, 1), (2, 5), (3, 4)], [[0, 1, 1], [5, 2], [0, 1, 2]])
    assert toy.label(graphs, ties=True).tolist() == [0, 1, 1]
    split = toy.make_split(toy.ToyConfig(ties=True), 300, 0, "test")
    assert torch.equal(split.labels, toy.label(split.graphs, ties=True))
    accuracies, _ = toy.audit(Judgement(lambda x, y, n: x >= y), split, toy.ToyConfig(ties=True))
    assert set(accuracies.values()) == {1.0}

"""The tasks with a gold mask for every layer: what their docstrings say of the data, the models and the gold."""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from layered_helpers import (
    BLUE,
    COLOURS,
    GREY,
    LINK,
    MARKED,
    NAMES,
    RED,
    START,
    TARGET,
    any_of_levels,
    layered,
    listing,
    make_batch,
    make_model,
    make_task,
    path,
    problem,
    sizes,
)

from attribench.base.errors import UserError
from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch
from attribench.plugins.task import SPLITS


def frontier(edges: dict[tuple[int, int], Any], nodes: set[int], kinds: Sequence[int]) -> set[int]:
    """Return where walks from the nodes end, one edge for each of the kinds."""
    for kind in kinds:
        nodes = {v for (u, v), (found, _) in edges.items() if u in nodes and found == kind}
    return nodes


def walks_into(edges: dict[tuple[int, int], Any], node: int, length: int) -> Iterator[list[tuple[int, int]]]:
    """Enumerate the walks of some length that end in a node."""
    if length == 0:
        yield []
        return
    for u, v in edges:
        if v == node:
            for walk in walks_into(edges, u, length - 1):
                yield [*walk, (u, v)]


def answer(name: str, depth: int, graphs: GraphBatch, g: int) -> bool:
    edges, first = listing(graphs, g), int(graphs.node_ptr[g])
    x = graphs["x"][first : int(graphs.node_ptr[g + 1])]
    if name == "neighbour-count":
        query = x[0, 3 : 3 + 2 * COLOURS].view(2, COLOURS).argmax(1).tolist()
        colours = [edges[walk[0]][0] for walk in walks_into(edges, TARGET, depth)]
        return colours.count(query[0]) > colours.count(query[1])
    lit = {node for node, signal in enumerate(x[:, 0].tolist()) if signal}
    assert all(signal in (0, 1) for signal in x[:, 0].tolist())
    kinds = [LINK] * depth if name == "any-of" else [MARKED] * depth
    if name in ("two-hop", "decoy-gates"):
        kinds = [(RED, BLUE)[i % 2] for i in range(depth)]
    if name != "any-of":
        assert lit == {START}
    if name in ("relay", "shared-layers"):
        whole = all(edges[pair][0] == MARKED for pair in path(depth))
        assert whole == (TARGET in frontier(edges, lit, kinds))
    return TARGET in frontier(edges, lit, kinds)


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_labels_agree_with_walks_one_by_one(name: str, depth: int) -> None:
    for split in problem(name, depth).splits.values():
        expected = [answer(name, depth, split.graphs, g) for g in range(split.graphs.num_graphs)]
        assert split.labels.tolist() == [int(yes) for yes in expected]
        assert split.labels.dtype == torch.int64
        assert 0.2 < split.labels.double().mean() < 0.8


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "dense": {"density": 4.0},
    "sparse": {"density": 0.2},
    "large": {"max_nodes": 40},
    "no chatter": {"chatter": 0},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_right_and_the_gold_alone_gives_its_output(name: str, depth: int, variant: str) -> None:
    found = problem(name, depth, **VARIANTS[variant])
    assert found.gold_confirmed
    assert found.figures["audit_gold_largest_change"] < 1e-3
    with Gates(found.model) as gates, torch.no_grad():
        for split in found.splits.values():
            recording = gates.record(split.graphs)
            assert torch.equal(recording.logits.argmax(1), split.labels)
            size = recording.logits.diff(dim=1).abs()
            assert size.min() > 2.99  # half of the sharpness, which is 6, less rounding
            assert size.max() < 3.01 or name in ("two-hop", "decoy-gates", "neighbour-count")  # the others do not count
            assert split.gold is not None
            assert torch.allclose(recording.forward(split.gold.float()), recording.logits, atol=1e-4)


def test_the_audit_notices_counts_that_float32_cannot_hold() -> None:
    """In deep and dense graphs there are more than 2 ** 24 walks."""
    found = problem("neighbour-count", 10, density=11.0, max_nodes=12)
    assert not found.gold_confirmed
    assert found.figures["test"] < 1


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ["two-hop", "decoy-gates"])
def test_red_is_gold_in_odd_layers_only_and_blue_in_even_ones(name: str, depth: int) -> None:
    for split in problem(name, depth).splits.values():
        assert split.gold is not None
        types = split.graphs["edge_type"]
        for k, gold in enumerate(split.gold):
            assert set(types[gold].tolist()) == {(RED, BLUE)[k % 2]}


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ["relay", "shared-layers"])
def test_edge_i_of_the_relay_is_gold_in_layer_i_up_to_the_first_that_is_not_marked(name: str, depth: int) -> None:
    broken = 0
    for split in problem(name, depth).splits.values():
        assert split.gold is not None
        expected = torch.zeros_like(split.gold)
        for g in range(split.graphs.num_graphs):
            edges = listing(split.graphs, g)
            for k, pair in enumerate(path(depth)):
                kind, e = edges[pair]
                if kind != MARKED:
                    broken += 1
                    break
                expected[k, e] = True
            on_path = {node for pair in path(depth) for node in pair}
            assert {pair for pair, (kind, _) in edges.items() if kind == MARKED and pair[0] in on_path} <= {
                *path(depth)
            }
            assert sum(edges[pair][0] != MARKED for pair in path(depth)) <= 1
        assert torch.equal(split.gold, expected)
    assert broken > 50


@pytest.mark.parametrize("depth", [2, 3])
def test_any_of_keeps_its_answer_without_any_one_message_and_loses_it_without_all(depth: int) -> None:
    found = problem("any-of", depth, sufficient=3, test=60)
    split = found.splits["test"].select(found.splits["test"].labels.nonzero()[:, 0])
    graphs, gold = split.graphs, split.gold
    assert gold is not None
    assert graphs.num_graphs > 15
    layer, edge = gold.nonzero().T
    copies = graphs.select(graphs.edge_graph[edge])
    masks = torch.ones(depth, copies.num_edges)
    masks[layer, copies.edge_ptr[:-1] + edge - graphs.edge_ptr[graphs.edge_graph[edge]]] = 0
    with Gates(found.model) as gates, torch.no_grad():
        assert (masks == 0).sum() == gold.sum() >= graphs.num_graphs * (3 + 9 * (depth - 1))
        assert (gates.record(copies).forward(masks).argmax(1) == 1).all()
        assert (gates.record(graphs).forward((~gold).float()).argmax(1) == 0).all()
        for k in range(depth):  # nor without the gold messages of one layer
            without = torch.ones(gold.shape)
            without[k] -= gold[k].float()
            assert (gates.record(graphs).forward(without).argmax(1) == 0).all()


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("name", ["two-hop", "decoy-gates", "neighbour-count"])
def test_what_is_planted_is_in_all_graphs_in_all_colours(name: str, depth: int) -> None:
    graphs = problem(name, depth).splits["test"].graphs
    pairs = [(2, TARGET), (3, TARGET), (0, 2), (0, 3)] if name == "neighbour-count" else path(depth)
    listed = [listing(graphs, g) for g in range(graphs.num_graphs)]
    for pair in pairs:
        assert {edges[pair][0] for edges in listed} == set(range(4 if name == "neighbour-count" else 3))
    for edges in listed:
        assert all(u != v for u, v in edges)
    assert len({frozenset(edges) for edges in listed}) > 0.9 * len(listed)  # all other edges are random
    assert sum(list(edges) == sorted(edges) for edges in listed) < 0.1 * len(listed)  # in random order
    x = graphs["x"]
    first = graphs.node_ptr[:-1]
    assert x[first + START, 0].tolist() == [float(name != "neighbour-count")] * len(first)
    role = 2 if name == "neighbour-count" else 1
    assert x[:, role].nonzero()[:, 0].tolist() == (first + TARGET).tolist()


@pytest.mark.parametrize("depth", [2, 3])
def test_any_of_is_drawn_as_described(depth: int) -> None:
    split = problem("any-of", depth).splits["test"]
    levels = any_of_levels(depth)
    cases = {"positive": 0, "unlit": 0, "cut": 0}
    for g, label in enumerate(split.labels.tolist()):
        edges, first = listing(split.graphs, g), int(split.graphs.node_ptr[g])
        lit = split.graphs["x"][first : int(split.graphs.node_ptr[g + 1]), 0].nonzero()[:, 0].tolist()
        pairs = [pair for a, b in pairwise(levels[:-1]) for pair in product(a, b)]
        assert all(edges[pair][0] == LINK for pair in pairs)
        into = [kind == LINK for (u, v), (kind, _) in edges.items() if v == TARGET]
        assert lit in ([], sorted(levels[0]))
        cases["positive" if label else "cut" if lit else "unlit"] += 1
        if label or not lit:
            assert all(edges[u, TARGET][0] == LINK for u in levels[-2])
        else:
            assert not any(into)
    assert min(cases.values()) > 15


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_decoy_gates_are_large_on_messages_of_zero_and_small_on_gold(depth: int) -> None:
    found = problem("decoy-gates", depth)
    split = found.splits["test"]
    with Gates(found.model) as gates:
        recording = gates.record(split.graphs)
    own, types, gold = recording.own_gates, split.graphs["edge_type"], split.gold
    assert own is not None
    assert gold is not None
    assert own.shape == gold.shape
    assert own[gold].max() < 0.2
    assert own[:, types == GREY].min() > 0.8
    zero = torch.stack([(call.flat_messages() == 0).all(1) for call in recording.calls])
    assert torch.equal(zero, (types == GREY).expand(depth, -1))
    for k in range(depth):
        assert (own[k, types == (BLUE, RED)[k % 2]] - 0.5).abs().max() < 1e-6


@pytest.mark.parametrize("depth", [2, 5])
@pytest.mark.parametrize("name", NAMES)
def test_every_message_carries_chatter_but_the_decoys(name: str, depth: int) -> None:
    """Also those of nodes that no edge enters, and where edges are few."""
    found = problem(name, depth, density=0.5)
    graphs = found.splits["test"].graphs
    decoys = graphs["edge_type"] == (GREY if name == "decoy-gates" else -1)
    with Gates(found.model) as gates:
        for call in gates.record(graphs).calls:
            messages = call.flat_messages()
            filled = messages[~decoys, -4:].abs() > 1e-3
            assert filled.any(1).all()
            assert filled.double().mean() > 0.99
            assert not messages[decoys].any()


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_shared_layers_apply_the_first_layer_of_the_relay_again_and_again(depth: int) -> None:
    task, relay = (make_task(name, **sizes(name, depth)) for name in ("shared-layers", "relay"))
    graphs = task.split(50, 0, "test").graphs
    shared, plain = make_model(task, graphs), make_model(relay, graphs)
    assert len({id(layer) for layer in shared.layers}) == 1
    assert len({id(layer) for layer in plain.layers}) == depth
    counted = [sum(p.numel() for p in model.parameters()) for model in (shared, plain)]
    assert counted[0] * depth == counted[1]
    layer, state = plain.layers[0], graphs["x"]
    with Gates(shared) as gates, torch.no_grad():
        recording = gates.record(graphs)
        assert recording.num_layers == depth
        for call in recording.calls:
            assert torch.equal(call.h_source, state)
            state = layer(state, graphs.edge_index, graphs["edge_type"])
            state = torch.cat([state[:, :2], state[:, 2:].tanh()], dim=1)
    signal = state[graphs.node_ptr[:-1] + TARGET, 0]
    assert torch.allclose(recording.logits, torch.stack([1.5 - 3 * signal, 3 * signal - 1.5], dim=1), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_colours_mean_nothing_by_themselves_and_model_seeds_change_chatter_only(name: str) -> None:
    found, other = problem(name, 3), problem(name, 3, model_seed=1)
    for split in SPLITS:
        a, b = found.splits[split], other.splits[split]
        assert a.gold is not None
        assert b.gold is not None
        assert torch.equal(a.gold, b.gold)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.graphs["x"], b.graphs["x"])
        with torch.no_grad():
            assert torch.equal(found.model(a.graphs), other.model(b.graphs))
    width = found.splits["test"].graphs["x"].shape[1] - 4
    for x, y in zip(found.model.layers, other.model.layers, strict=True):  # type: ignore[arg-type]
        assert torch.equal(x.weight[:, :, :width], y.weight[:, :, :width])
        assert torch.equal(x.root, y.root)
        same = (x.weight[:, :, width:] == y.weight[:, :, width:]).flatten(1).all(1)
        assert same.tolist() == [name == "decoy-gates" and kind == GREY for kind in range(len(same))]


def test_neighbour_count_treats_all_colours_alike() -> None:
    """Why the classes above need only one query and three colours."""
    task = make_task("neighbour-count", depth=3)
    drawn = task.draw(200, torch.Generator().manual_seed(0))
    order = torch.tensor([2, 0, 3, 1])
    types = torch.where(drawn.types >= 0, order[drawn.types], -1)
    query = drawn.roles[..., 1:].unflatten(2, (2, COLOURS))
    renamed = torch.zeros_like(query)
    renamed[..., order] = query
    roles = torch.cat([drawn.roles[..., :1], renamed.flatten(2)], dim=2)
    other = layered.Drawn(types, drawn.start, roles, drawn.num_nodes)
    assert torch.equal(task.label(drawn), task.label(other))
    assert torch.equal(task.gold(make_batch(task, drawn)), task.gold(make_batch(task, other)))
    batches = make_batch(task, drawn), make_batch(task, other)
    with torch.no_grad():
        assert torch.equal(*(make_model(task, batch)(batch) for batch in batches))


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("two-hop", {"depth": 5, "min_nodes": 6}, "two-hop: expected 7 <= min_nodes <= max_nodes, .* got 6 to 10"),
        ("relay", {"depth": 9, "max_nodes": 10}, "relay: expected 11 <= min_nodes .* got 10 to 10: change one"),
        ("shared-layers", {"depth": 5, "max_nodes": 5}, "shared-layers: expected 7 <= .* got 5 to 5"),
        ("decoy-gates", {"min_nodes": 9, "max_nodes": 8}, "expected 4 <= min_nodes <= max_nodes, .* got 9 to 8"),
        ("neighbour-count", {"min_nodes": 1001}, "neighbour-count.min_nodes: .* 1000; got 1001"),
        ("neighbour-count", {"density": 0}, "neighbour-count.density: .* 0; got 0"),
        ("neighbour-count", {"min_nodes": 3}, "neighbour-count.min_nodes: .* 4; got 3"),
        (
            "any-of",
            {"sufficient": 5, "min_nodes": 10},
            "any-of: expected 11 <= min_nodes .* got 10 to 14",
        ),
        ("any-of", {"depth": 4, "max_nodes": 12}, "any-of: expected 13 <= min_nodes <= max_nodes, .* got 12 to 12"),
        ("any-of", {"sufficient": 1}, "any-of.sufficient: .* 2; got 1"),
        ("two-hop", {"depth": 1}, "two-hop.depth: .* 2; got 1"),
        ("two-hop", {"depth": 11, "min_nodes": 20, "max_nodes": 20}, "two-hop.depth: .* 10; got 11"),
        ("relay", {"density": -0.5}, "relay.density: .* 0; got -0.5"),
        ("relay", {"sharpness": 0}, "relay.sharpness: .* 0.001; got 0"),
        ("two-hop", {"sufficient": 3}, "expected an option of two-hop among depth"),
    ],
)
def test_bad_configurations_are_refused_in_one_line(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says.replace(" + ", r" \+ ")) as refused:
        make_task(name, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("depth", [2, 4, 5, 9])
@pytest.mark.parametrize("name", NAMES)
def test_graphs_grow_with_depth_where_sizes_are_left_out(name: str, depth: int) -> None:
    usual, needed = (10, 3 * depth + 1) if name == "any-of" else (6, depth + 2)
    assert make_task(name, depth=depth).config.sizes == (max(usual, needed), max(usual, needed) + 4)
    assert make_task(name, depth=depth, max_nodes=40).config.sizes == (max(usual, needed), 40)
    assert make_task(name, depth=depth, min_nodes=30).config.sizes == (30, 34)


@pytest.mark.parametrize("name", NAMES)
def test_the_smallest_graphs_that_are_accepted_can_be_drawn(name: str) -> None:
    fewest = 7 if name == "any-of" else 5
    found = problem(name, 3, min_nodes=fewest, max_nodes=fewest, **({"sufficient": 2} if name == "any-of" else {}))
    assert found.gold_confirmed
    assert (found.splits["train"].graphs.num_nodes_per_graph == fewest).all()

"""The tasks with a gold mask for every layer: their gold against brute force.

A message is used if replacing it by zero changes the predicted class in some context. What identifies a message is its
*content*: the layer, the type of the edge, and the signal and roles of its two nodes when it is sent, which determine
the signal that it sends; chatter is not part of it. A context is a graph of the task with a message of that content,
and a set S of other messages that are replaced as well. The gold is what is used where the message has its content
*after* S is replaced. It might also be asked to have it *before*, in the graph as it is. This comes to the same for
all tasks but neighbour-count, for which the tests say where it does not.

``sweep`` tries every S of every graph it is given. Where graphs small enough for that do not hold a context of every
gold message, ``witness`` constructs one for any message of any graph.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise, product
from typing import Any

import pytest
import torch
from layered_helpers import (
    BLUE,
    COLOURS,
    DASHED,
    GREY,
    LINK,
    MARKED,
    MESSAGES_AT_ONCE,
    NAMES,
    PLAIN,
    RED,
    START,
    TARGET,
    Edges,
    any_of_levels,
    dense,
    layered,
    listing,
    make_batch,
    make_model,
    make_task,
    marks,
    path,
    problem,
    query_roles,
    sizes,
)
from torch import Tensor

from attribench.model.gates import Gates
from attribench.model.graphs import GraphBatch


class Watched:
    """Gates on a model that also tell [signal, roles] of every node before every layer, of the last pass."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.seen: list[Tensor] = []

    def __enter__(self) -> "Watched":
        self.gates = Gates(self.model).__enter__()
        # A layer that is shared is hooked once, and called K times.
        self.hooks = [layer.register_forward_pre_hook(self._see) for layer in set(self.model.layers)]
        return self

    def __exit__(self, *error: Any) -> None:
        for hook in self.hooks:
            hook.remove()
        self.gates.__exit__(None, None, None)

    def _see(self, layer: Any, inputs: Any) -> None:
        self.seen.append(inputs[0][:, : self.model.width])

    def states(self) -> Tensor:
        """Return the whole numbers ``(K, N, S + R)`` of the last pass."""
        states = torch.stack(self.seen)
        assert (states - states.round()).abs().max() < 1e-3
        return states.round().long()

    def record(self, graphs: GraphBatch) -> Any:
        self.seen.clear()
        return self.gates.record(graphs)

    @torch.no_grad()
    def classes(self, recording: Any, masks: Tensor) -> Tensor:
        """Return the classes ``(G,)`` with messages replaced by zero where masks ``(K, E)`` are 0."""
        self.seen.clear()
        classes: Tensor = recording.forward(masks.to(recording.logits.dtype)).argmax(1)
        return classes


CODES = torch.randint(-(2**62), 2**62, (64,), generator=torch.Generator().manual_seed(0)) | 1


def code(*parts: Tensor | int) -> Tensor:
    """Return one number for every combination of the parts; that two share one is as likely as one in 2 ** 60."""
    total = torch.zeros((), dtype=torch.long)
    for i, part in enumerate(parts):
        total = total * CODES[40 + i] + part
        total = (total ^ (total >> 29)) * CODES[50 + i]
    return total


def state_code(states: Tensor) -> Tensor:
    """Return one number ``(...,)`` for every state ``(..., S + R)``."""
    total = (states * CODES[: states.shape[-1]]).sum(-1)
    return total ^ (total >> 31)


@dataclass
class Sweep:
    """What replacing messages of some graphs by zero shows, for every message ``(K, E)``.

    Args:
        gold: the task's.
        content: a number that says what the message is.
        before, after: is it used, in the two readings?
    """

    graphs: GraphBatch
    gold: Tensor
    content: Tensor
    before: Tensor
    after: Tensor

    def differences(self, used: Tensor) -> str:
        """Describe the first messages on which the gold and what is used differ."""
        rows = []
        for k, e in (used != self.gold).nonzero()[:5].tolist():
            g = int(self.graphs.edge_graph[e])
            listed = {pair: kind for pair, (kind, _) in listing(self.graphs, g).items()}
            pair = (self.graphs.edge_index[:, e] - self.graphs.node_ptr[g]).tolist()
            rows.append(f"layer {k + 1}, {pair} in {listed} is {'not gold' if used[k, e] else 'not used'}")
        return f"{int((used != self.gold).sum())} messages: " + "; ".join(rows)


def sweep(task: Any, drawn: Any) -> Sweep:
    """Replace every subset of the messages of every graph, and note for every message whether it ever matters."""
    assert (drawn.num_nodes == drawn.num_nodes[0]).all()
    graphs, depth = make_batch(task, drawn), task.config.depth
    content, used = (torch.zeros(depth, graphs.num_edges, dtype=kind) for kind in (torch.long, torch.bool))
    after: list[Tensor] = []
    with Watched(make_model(task, graphs)) as watched:
        for count in graphs.num_edges_per_graph.unique().tolist():
            alike = (graphs.num_edges_per_graph == count).nonzero()[:, 0]
            subsets = 2 ** (depth * count)
            together = max(1, 8 * MESSAGES_AT_ONCE // (subsets * count))
            for index in alike.split(together):
                of = graphs.edges_of(index)
                content[:, of], used[:, of], contents = _every_subset(watched, graphs.select(index), subsets)
                after.append(contents)
    return Sweep(
        graphs,
        task.gold(graphs),
        content,
        torch.isin(content, content[used].unique()),
        torch.isin(content, torch.cat(after).unique()),
    )


def _every_subset(watched: Watched, graphs: GraphBatch, subsets: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sweep B graphs with equal numbers of edges.

    Returns:
        The messages' content ``(K, E)`` before; whether they matter for some S ``(K, E)``; all contents that messages
        have in a pass in which they matter.
    """
    size, count = graphs.num_graphs, graphs.num_edges // graphs.num_graphs
    depth = len(watched.model.layers)
    number = torch.arange(subsets)
    masks = (number[:, None] >> torch.arange(depth * count) & 1).view(subsets, depth, 1, count)
    copies = subsets
    while copies > 1 and copies * graphs.num_edges > MESSAGES_AT_ONCE:
        copies //= 2
    recording = watched.record(graphs.select(torch.arange(size).repeat(copies)))
    classes, codes = [], []
    for part in masks.split(copies):
        z = part.expand(-1, -1, size, -1).transpose(0, 1).reshape(depth, -1)
        classes.append(watched.classes(recording, z).view(copies, size))
        codes.append(state_code(watched.states()).view(depth, copies, size, -1))
    answer, state = torch.cat(classes), torch.cat(codes, dim=1)  # (M, B), (K, M, B, N)
    source, target = (graphs.edge_index - graphs.node_ptr[graphs.edge_graph]).view(2, size, count)
    types, row = graphs["edge_type"].view(size, count), torch.arange(size)
    content, matters = torch.zeros(depth, size, count, dtype=torch.long), torch.zeros(depth, size, count).bool()
    after = []
    for k, e in product(range(depth), range(count)):
        bit = 1 << (k * count + e)
        kept = number[number & bit > 0]
        flips = answer[kept] != answer[kept ^ bit]
        matters[k, :, e] = flips.any(0)
        m, b = flips.nonzero().T

        def at(m: Any, b: Tensor, k: int = k, e: int = e) -> Tensor:
            return code(k, types[b, e], state[k, m, b, source[b, e]], state[k, m, b, target[b, e]])

        content[k, :, e] = at(-1, row)  # the last subset keeps all messages
        after.append(at(kept[m], b).unique())
    return content.flatten(1), matters.flatten(1), torch.cat(after)


def choices(
    fixed: Sequence[Iterable[tuple[int, int, int]]], optional: Sequence[tuple[int, int, int]], most: int
) -> Iterator[Edges]:
    """Yield all graphs with one edge of every group of ``fixed`` and at most so many of the others."""
    for base in product(*fixed):
        taken = {(u, v): kind for u, v, kind in base}
        free = [edge for edge in optional if edge[:2] not in taken]
        for size in range(most + 1):
            for extra in combinations(free, size):
                if len({edge[:2] for edge in extra}) == size:
                    yield {**taken, **{(u, v): kind for u, v, kind in extra}}


def every(sources: Iterable[int], targets: Iterable[int], kinds: Iterable[int]) -> list[tuple[int, int, int]]:
    """All edges from one of the sources to one of the targets, without loops."""
    return [(u, v, kind) for u, v, kind in product(sources, targets, kinds) if u != v]


# Graphs that are small enough for every subset of their messages. Fixed edges are those that the task always draws.


def path_graphs(depth: int, nodes: int, most: int, colours: Sequence[int] = (RED, BLUE, GREY)) -> list[Edges]:
    """Two-hop: a path from the start to the target of these colours, and other edges among the first nodes."""
    fixed = [[(u, v, colour) for colour in colours] for u, v in path(depth)]
    return list(choices(fixed, every(range(nodes), range(nodes), range(3)), most))


def relay_graphs(depth: int, most: int) -> list[Edges]:
    """Relay: a path that is whole or broken once; other edges are not marked if they leave the path."""
    on_path = [START, *range(2, depth + 1), TARGET]
    off = depth + 1
    free = every(on_path, range(off + 1), (PLAIN, DASHED)) + every([off], range(off + 1), (MARKED, PLAIN, DASHED))
    graphs = []
    for broken, kind in [(None, PLAIN), *product(range(depth), (PLAIN, DASHED))]:
        fixed = [[(u, v, kind if i == broken else MARKED)] for i, (u, v) in enumerate(path(depth))]
        graphs += list(choices(fixed, free, most))
    return graphs


def count_graphs(depth: int) -> list[Edges]:
    """Neighbour-count: two neighbours of the centre with an edge into each from node 0, and one other edge.

    With the query <0, 1>, colour 3 is like colour 2. Of two graphs that differ in the names of 2 and 3 one is kept.
    """
    fixed = [[(u, v, colour) for colour in range(3)] for u, v in ((2, TARGET), (3, TARGET), (0, 2), (0, 3))]
    nodes, swap = range(depth + 2), {2: 3, 3: 2}
    kept: dict[frozenset[Any], Edges] = {}
    for edges in choices(fixed, every(nodes, nodes, range(3)), 1):
        swapped = frozenset((swap.get(u, u), swap.get(v, v), kind) for (u, v), kind in edges.items())
        if swapped not in kept:
            kept[frozenset((u, v, kind) for (u, v), kind in edges.items())] = edges
    return list(kept.values())


def drawn_paths(graphs: list[Edges], nodes: int) -> Any:
    return dense(graphs, [nodes] * len(graphs), marks(nodes, START), marks(nodes, TARGET))


def drawn_counts(graphs: list[Edges], nodes: int) -> Any:
    return dense(graphs, [nodes] * len(graphs), torch.zeros(nodes, 2), query_roles(nodes))


def drawn_lit(graphs: list[Edges], nodes: int, lit: Sequence[Sequence[int]]) -> Any:
    """Any-of: every graph with every choice of lit nodes."""
    start = torch.stack([marks(nodes, *chosen) for chosen in lit]).repeat_interleave(len(graphs), 0)
    return dense(graphs * len(lit), [nodes] * len(start), start, marks(nodes, TARGET))


def any_of_graphs() -> Any:
    """Any-of at depth 2 with two sufficient nodes: 0 and 3 are lit, both lead to 2 and 4, these to the target."""
    first, last = (0, 3), (2, 4)
    fixed = [[edge] for edge in every(first, last, [LINK])]
    free = every(range(5), range(5), (LINK, PLAIN))
    linked = list(choices([*fixed, *([edge] for edge in every(last, [TARGET], [LINK]))], free, 1))
    apart = [edge for edge in free if edge[1:] != (TARGET, LINK)]
    cut = list(choices([*fixed, *([edge] for edge in every(last, [TARGET], [PLAIN]))], apart, 1))
    linked += [{**linked[0], (0, 3): LINK, (3, TARGET): LINK}]  # a lit node that a lit node leads to
    unlit = list(choices([*fixed, *([edge] for edge in every(last, [TARGET], [LINK]))], free, 0))
    parts = [drawn_lit(linked, 5, [first]), drawn_lit(cut, 5, [first]), drawn_lit(unlit, 5, [()])]
    return layered.Drawn(
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("types", "start", "roles", "num_nodes"))
    )


def link_graphs(most: int) -> Any:
    """Any-of: graphs of three nodes with links and another type, any but the target lit; more than are drawn."""
    graphs = [edges for edges in choices([], every(range(3), range(3), (LINK, PLAIN)), most) if edges]
    return drawn_lit(graphs, 3, [(), (0,), (2,), (0, 2)])


def three_hop_graphs() -> list[Edges]:
    """Two-hop at depth 3, with those whose walks come through the target, which take more edges than one."""
    whole = {edge: k % 2 for k, edge in enumerate(path(3))}
    back: Edges = {**whole, (START, TARGET): RED}
    through = [{(TARGET, START): BLUE}, {(TARGET, 3): BLUE}, {(TARGET, 2): BLUE, (2, TARGET): RED}]
    return path_graphs(3, 4, 1, (RED, BLUE)) + [{**back, **more} for more in through]


CLASSES: dict[str, tuple[str, int, Callable[[], Any]]] = {
    "two-hop": ("two-hop", 2, lambda: drawn_paths(path_graphs(2, 4, 2), 4)),
    "two-hop, three layers": ("two-hop", 3, lambda: drawn_paths(three_hop_graphs(), 5)),
    "decoy-gates": ("decoy-gates", 2, lambda: drawn_paths(path_graphs(2, 3, 2), 4)),
    "relay": ("relay", 2, lambda: drawn_paths(relay_graphs(2, 2), 4)),
    "relay, three layers": ("relay", 3, lambda: drawn_paths(relay_graphs(3, 1), 5)),
    "shared-layers": ("shared-layers", 2, lambda: drawn_paths(relay_graphs(2, 2), 4)),
    "shared-layers, three layers": ("shared-layers", 3, lambda: drawn_paths(relay_graphs(3, 1)[::2], 5)),
    "any-of": ("any-of", 2, any_of_graphs),
    "any-of, any links": ("any-of", 2, lambda: link_graphs(4)),
    "any-of, any links, three layers": ("any-of", 3, lambda: link_graphs(3)),
    "neighbour-count": ("neighbour-count", 2, lambda: drawn_counts(count_graphs(2), 4)),
}


@cache
def swept(title: str) -> Sweep:
    name, depth, make = CLASSES[title]
    return sweep(make_task(name, **{**sizes(name, depth), "chatter": 1}), make())


@pytest.mark.parametrize(
    ("title", "reading"),
    [case for case in product(CLASSES, ("after", "before")) if case != ("neighbour-count", "before")],
)
def test_gold_is_what_is_used_in_some_context(title: str, reading: str) -> None:
    """Both directions, for every message of every graph of a class, and every S: the class has all contexts needed."""
    found = swept(title)
    used = getattr(found, reading)
    assert torch.equal(used, found.gold), found.differences(used)
    assert found.content[found.gold].unique().numel() >= 2
    assert 0 < found.gold.double().mean() < 0.5


def test_a_message_with_equal_counts_is_used_only_if_it_may_differ_before_others_are_replaced() -> None:
    """If it had its content before, S could take one of the source's counts away, and then it may decide."""
    found = swept("neighbour-count")
    assert not (found.gold & ~found.before).any(), found.differences(found.before)
    graphs = found.graphs
    with Watched(make_model(make_task("neighbour-count", chatter=1), graphs)) as watched:
        watched.record(graphs)
        counts = watched.states()[:, graphs.edge_index[0], :2]
    extra = counts[found.before & ~found.gold]
    assert len(extra) > 0
    assert (extra[:, 0] == extra[:, 1]).all()
    assert (extra > 0).all()


def test_what_is_used_is_gold_in_neighbour_count_with_three_layers() -> None:
    """One direction: the graphs are too few to hold a context of every gold message."""
    fixed = [(2, TARGET), (3, TARGET), (0, 2), (0, 3)]
    draw = torch.Generator().manual_seed(0)
    graphs = [
        {edge: int(torch.randint(colours, (), generator=draw)) for edge in [*fixed, extra]}
        for extra in [(4, 0), (TARGET, 0), (2, 0), (TARGET, 2), (3, 2)]
        for colours in (2, 3)
    ]
    task = make_task("neighbour-count", depth=3, chatter=1)
    found = sweep(task, drawn_counts(graphs, 5))
    assert not (found.after & ~found.gold).any(), found.differences(found.after)
    assert (found.after & found.gold).any(1).all()


# Contexts of any message of any graph.


@dataclass
class Witness:
    """A graph, and the messages that are kept; the others are S.

    Args:
        keep: for every layer, the edges whose messages are kept.
        message: the layer and the edge of the message that decides.
    """

    edges: Edges
    lit: Sequence[int]
    keep: list[set[tuple[int, int]]]
    message: tuple[int, tuple[int, int]]

    @property
    def num_nodes(self) -> int:
        return 1 + max(max(pair) for pair in self.edges)


def witness(
    name: str, depth: int, graph: Edges, k: int, pair: tuple[int, int], query: Sequence[int], negative: bool
) -> Witness:
    """Construct a context of the message of layer ``k`` (from 0) over the edge ``pair``.

    What the two nodes know of the graph is copied, with a node of its own for every step of every walk that ends in
    them: they are in the same state, and in this graph they are so once, before layer ``k``. From there a walk of new
    nodes leads to the target. Kept are the copied walks, the message, and the walk; and, for a message that counts
    for colour y, one more walk, whose first edge has colour x.
    """
    if name in ("relay", "shared-layers"):
        whole = {**graph, **dict.fromkeys(path(depth), MARKED)}
        return Witness(whole, [START], [set(whole)] * depth, (k, pair))
    counts, lit = name == "neighbour-count", [START]
    other = next(colour for colour in range(COLOURS) if colour not in query)
    along: Callable[[int], int] = {"neighbour-count": lambda _: other, "any-of": lambda _: LINK}.get(
        name, lambda i: i % 2
    )
    # What the task plants in every graph, where it does not matter.
    planted: Edges = dict.fromkeys(path(depth), GREY)
    if counts:
        lit, planted = [], dict.fromkeys([(2, TARGET), (3, TARGET), (0, 2), (0, 3)], other)
    if name == "any-of":
        levels = any_of_levels(depth)
        lit = levels[0]
        planted = {(u, v): LINK for a, b in pairwise(levels) for u, v in product(a, b)}
    names: dict[Any, int] = {}
    edges, keep = dict(planted), [set[tuple[int, int]]() for _ in range(depth)]
    unused = 1 + max(max(ends) for ends in planted)

    def copy(node: int, t: int) -> int:
        if (node == TARGET and t == k) or (node in lit and t == 0):
            return node
        return names.setdefault((node, t), unused + len(names))

    def add(layer: int, u: int, v: int, kind: int) -> None:
        assert (u, v) not in edges
        edges[u, v] = kind
        keep[layer].add((u, v))

    def lead(node: int, layer: int, kinds: Callable[[int], int]) -> None:
        for i in range(layer, depth):
            after = TARGET if i == depth - 1 else names.setdefault((node, "to the target", i), unused + len(names))
            add(i, node, after, kinds(i))
            node = after

    level = set(pair)
    for t in range(k, 0, -1):
        before = [(u, v) for u, v in graph if v in level]
        for u, v in before:
            if not (counts and k == 1 and (u, v) == pair):  # there, the edge of the message itself counts in layer 1
                # Edges' colours are read in layer 1 only; others would count where walks start later.
                add(t - 1, copy(u, t - 1), copy(v, t), other if counts and t > 1 else graph[u, v])
        level = {u for u, _ in before}
    message = copy(pair[0], k), copy(pair[1], k)
    add(k, *message, graph[pair])
    if counts and k == 1:
        keep[0].add(message)
    lead(message[1], k + 1, along)
    if negative:
        first = names.setdefault("first", unused + len(names))
        lead(first, 0, lambda i: other if i else query[0])
    return Witness(edges, lit, keep, (k, message))


@dataclass
class Tried:
    """Witnesses ``(W,)`` of gold messages, tried out.

    Args:
        decides: does replacing the message change the class?
        before, after: is it the message of the graph it was constructed for, without and with S replaced?
        described: the layer (from 0); is it sent by the target; is its edge's colour in the query?
    """

    decides: Tensor
    before: Tensor
    after: Tensor
    described: list[tuple[int, bool, bool]]


def try_witnesses(name: str, depth: int, most: int = 120) -> Tried:
    """Construct and try a witness for random gold messages of random graphs, no two of the same content."""
    task = make_task(name, **sizes(name, depth))
    split = task.split(60, 1, "test")
    graphs, gold = split.graphs, split.gold
    model = make_model(task, graphs)
    with Watched(model) as watched:
        recording = watched.record(graphs)
        states = watched.states()
        source, target = graphs.edge_index
        content = torch.stack(
            [
                code(k, graphs["edge_type"], state_code(states[k][source]), state_code(states[k][target]))
                for k in range(depth)
            ]
        )
        chosen: dict[int, tuple[int, int]] = {}
        messages = gold.nonzero()
        for k, e in messages[torch.randperm(len(messages), generator=torch.Generator().manual_seed(2))].tolist():
            chosen.setdefault(int(content[k, e]), (k, e))
        found, ends, described = [], [], []
        read = torch.tensor(task.read)
        for k, e in list(chosen.values())[:most]:
            g = int(graphs.edge_graph[e])
            u, v = (graphs.edge_index[:, e] - graphs.node_ptr[g]).tolist()
            edges = {pair: kind for pair, (kind, _) in listing(graphs, g).items()}
            query = (
                states[0, source[e], 3:].view(2, COLOURS).argmax(1).tolist() if name == "neighbour-count" else [0, 1]
            )
            negative = bool(recording.calls[k].flat_messages()[e, : len(read)] @ read < 0)
            found.append(witness(name, depth, edges, k, (u, v), query, negative))
            ends.append((states[k, source[e]], states[k, target[e]]))
            described.append((k, u == TARGET, int(graphs["edge_type"][e]) in query))
        nodes = max(one.num_nodes for one in found)
        roles = torch.stack([marks(nodes, TARGET)] * len(found))
        start = torch.stack([marks(nodes, *one.lit) for one in found])
        if name == "neighbour-count":
            roles = torch.stack(
                [torch.cat([marks(nodes, TARGET), u[3:].float().expand(nodes, -1)], dim=1) for u, _ in ends]
            )
            start = torch.zeros(len(found), nodes, 2)
        contexts = make_batch(task, dense([one.edges for one in found], [one.num_nodes for one in found], start, roles))
        masks, places = torch.zeros(2, depth, contexts.num_edges), []
        for g, one in enumerate(found):
            listed = listing(contexts, g)
            for layer, kept in enumerate(one.keep):
                masks[:, layer, [listed[pair][1] for pair in kept]] = 1
            k, pair = one.message
            masks[1, k, listed[pair][1]] = 0
            places.append((k, contexts.edge_index[:, listed[pair][1]]))
        recording = watched.record(contexts)

        def same() -> Tensor:
            now = watched.states()
            return torch.tensor(
                [torch.equal(now[k][pair], torch.stack(end)) for (k, pair), end in zip(places, ends, strict=True)]
            )

        before = same()
        without, with_ = watched.classes(recording, masks[1]), watched.classes(recording, masks[0])
        return Tried(without != with_, before, same(), described)


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_every_gold_message_of_larger_graphs_has_a_context(name: str, depth: int) -> None:
    """It has its content before, too; but for some that neighbour-count's target sends in the last layer but one.

    What enters v there is read if v -> target is an edge, so that there is a circle. If the circle's first edge has
    colour q of the query, walks of K - 2 edges go round it, to the target where K is even and to v where it is odd:
    that count of q is not 0, unless S cuts them off.
    """
    tried = try_witnesses(name, depth)
    assert {k for k, _, _ in tried.described} == set(range(depth))
    assert tried.decides.all()
    assert tried.after.all()
    for i in (~tried.before).nonzero()[:, 0].tolist():
        k, by_target, colour_in_query = tried.described[i]
        assert (name, depth >= 4, k, by_target, colour_in_query) == ("neighbour-count", True, depth - 2, True, True)


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_messages_that_are_not_gold_never_matter_in_larger_graphs(name: str, depth: int) -> None:
    """Random S in layer k and above, so that layer k's messages are as before; then also those that are not gold."""
    split = problem(name, depth).splits["test"]
    gold = split.gold
    assert gold is not None
    draw = torch.Generator().manual_seed(0)
    fell = 0
    with Gates(problem(name, depth).model) as gates, torch.no_grad():
        recording = gates.record(split.graphs)
        for k in range(depth):
            for kept in (0.5, 0.8, 0.95):
                mask = (torch.rand(gold.shape, generator=draw) < kept).float()
                mask[:k] = 1
                fewer = mask.clone()
                fewer[k] *= gold[k]
                logits, other = recording.forward(mask), recording.forward(fewer)
                assert torch.allclose(logits, other, atol=1e-4)
                fell += int((logits.argmax(1) != recording.logits.argmax(1)).sum())
                if name != "neighbour-count":  # there, S in lower layers would make equal counts differ
                    mask = (torch.rand(gold.shape, generator=draw) < kept).float()
                    assert torch.allclose(recording.forward(mask), recording.forward(mask * gold), atol=1e-4)
    assert fell > 0  # some S changes predictions

"""The tasks with a gold mask for every layer: their gold against brute force, and what else their docstrings say.

A message is used if replacing it by zero changes the predicted class in some context. What identifies a message is its
*content*: the layer, the type of the edge, and the signal and roles of its two nodes when it is sent, which determine
the signal that it sends; chatter is not part of it. A context is a graph of the task with a message of that content,
and a set S of other messages that are replaced as well. The gold is what is used where the message has its content
*after* S is replaced. It might also be asked to have it *before*, in the graph as it is. This comes to the same for
all tasks but neighbour-count, for which the tests say where it does not.

``sweep`` tries every S of every graph it is given. Where graphs small enough for that do not hold a context of every
gold message, ``witness`` constructs one for any message of any graph.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor

from attribench.errors import UserError
from attribench.gates import Gates
from attribench.graphs import GraphBatch
from attribench.registry import TASKS
from attribench.settings import make_config
from attribench.task import SPLITS, Problem, TaskSeeds, Workshop, build_problem, without_cache

NAMES = ("two-hop", "relay", "shared-layers", "neighbour-count", "any-of", "decoy-gates")
TASKS["two-hop"]
layered: Any = importlib.import_module("attribench.tasks._layered")
START, TARGET = 0, 1
RED, BLUE, GREY = range(3)
MARKED, PLAIN, DASHED = range(3)
LINK = 0
COLOURS = 4
MESSAGES_AT_ONCE = 30_000

Edges = dict[tuple[int, int], int]
"""Types by source and target."""


def make_task(name: str, **options: Any) -> Any:
    kind = TASKS[name]
    return kind(make_config(name, kind.Config, options))


def sizes(name: str, depth: int) -> dict[str, int]:
    """Numbers of nodes that leave room for what the task plants."""
    fewest = 3 * depth + 1 if name == "any-of" else max(6, depth + 2)
    return {"depth": depth, "min_nodes": fewest, "max_nodes": fewest + 4}


@cache
def problem(name: str, depth: int, model_seed: int = 0, **options: Any) -> Problem:
    options = {"train": 60, "validation": 60, "test": 120, **sizes(name, depth), **options}
    return build_problem(
        make_task(name, **options), TaskSeeds(0, model_seed), Workshop(torch.device("cpu"), without_cache)
    )


def dense(graphs: Sequence[Edges], num_nodes: Sequence[int], start: Tensor, roles: Tensor) -> Any:
    """Turn edges into ``Drawn``; start and roles are ``(G, N, ...)`` or, the same for all graphs, ``(N, ...)``."""
    most = max(num_nodes)
    rows = [(g, u, v, kind) for g, edges in enumerate(graphs) for (u, v), kind in edges.items()]
    g, u, v, kinds = torch.tensor(rows).T
    types = torch.full((len(graphs), most, most), -1)
    types[g, u, v] = kinds
    start, roles = (x if x.dim() == 3 else x.expand(len(graphs), -1, -1) for x in (start, roles))
    return layered.Drawn(types, start, roles, torch.tensor(num_nodes))


def marks(nodes: int, *positions: int) -> Tensor:
    """Return ``(N, 1)``: 1 at the positions."""
    column = torch.zeros(nodes, 1)
    column[list(positions)] = 1
    return column


def query_roles(nodes: int, x: int = 0, y: int = 1) -> Tensor:
    """Return the roles of neighbour-count's nodes ``(N, 1 + 2 C)``."""
    query = torch.zeros(2 * COLOURS)
    query[[x, COLOURS + y]] = 1
    return torch.cat([marks(nodes, TARGET), query.expand(nodes, -1)], dim=1)


def listing(graphs: GraphBatch, g: int) -> dict[tuple[int, int], tuple[int, int]]:
    """Return type and position in the batch of every edge of a graph, by source and target in the graph."""
    edges = range(int(graphs.edge_ptr[g]), int(graphs.edge_ptr[g + 1]))
    ends = (graphs.edge_index[:, edges.start : edges.stop] - graphs.node_ptr[g]).T.tolist()
    kinds = graphs["edge_type"][edges.start : edges.stop].tolist()
    return {(u, v): (kind, e) for (u, v), kind, e in zip(ends, kinds, edges, strict=True)}


def make_batch(task: Any, drawn: Any) -> GraphBatch:
    graphs: GraphBatch = task.batch(drawn, torch.Generator().manual_seed(0), "by hand")
    return graphs


def make_model(task: Any, graphs: GraphBatch) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return task.model(graphs["x"].shape[1] - task.config.chatter).eval()


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


def path(depth: int) -> list[tuple[int, int]]:
    nodes = [START, *range(2, depth + 1), TARGET]
    return list(pairwise(nodes))


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


def any_of_levels(depth: int, sufficient: int = 3) -> list[list[int]]:
    nodes = [0, *range(2, depth * sufficient + 1)]
    return [*(nodes[i::depth] for i in range(depth)), [TARGET]]


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


# What the docstrings say of the data, the models and the gold.


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

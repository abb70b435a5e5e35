"""Items to graphs (De Cao et al. 2019): nodes are mentions, directed edges say how two mentions belong together.

Edges are of four types, and two mentions may be joined by several:

- MATCH: both are names, and the same one; anaphors have none;
- DOC-BASED: both stand in one document;
- COREF: both are in one coreference chain;
- COMPLEMENT: they are joined by none of these.

Every edge has its inverse; no mention is joined to itself. All N (N - 1) pairs are joined, so a graph of 500 nodes has
about 250,000 edges. They are in the order of (type, target, source): that of the non-zero entries of the four adjacency
matrices, ``adjacency[type, target, source]``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .coreference import Chains, by_file, by_rule
from .mentions import Mention, find_mentions, tokenize, words
from .wikihop import Item, LeftOut

EDGE_TYPES = ("MATCH", "DOC-BASED", "COREF", "COMPLEMENT")
MATCH, DOC_BASED, COREF, COMPLEMENT = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of an item is taken; what is beyond is cut and counted."""

    nodes: int = 500
    """Mentions, in the order of the documents."""
    query: int = 25
    """Tokens of relation and subject."""
    candidates: int = 80
    """In the file's order, without a look at the answer."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MentionGraph:
    """The graph of an item, with N nodes, E edges and C candidates."""

    item: Item
    query: tuple[str, ...]
    """Tokens of relation and subject."""
    words: tuple[tuple[str, ...], ...]
    """(N,): the tokens of every mention."""
    candidate: Tensor
    """``(N,)`` int64; -1 of the subject, where it is no candidate."""
    document: Tensor
    """``(N,)`` int64."""
    span: Tensor
    """``(N, 2)`` int64: first token in the document, and the token after the last."""
    subject: Tensor
    """``(N,)`` bool: mentions of the query's subject."""
    anaphor: Tensor
    """``(N,)`` bool: mentions that are no names."""
    edge_index: Tensor
    """``(2, E)`` int64: source and target."""
    edge_type: Tensor
    """``(E,)`` int64: a place in :data:`EDGE_TYPES`."""
    num_candidates: int
    """C."""
    answer: int
    """The answer's number; -1 where it is not known or was cut."""
    gold: Tensor | None
    """``(H,)`` int64: the edges of the gold chain, in its order; None where there is none, or a part of it was cut."""

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.words)

    def vocabulary(self) -> list[str]:
        """Return the words of the query and of all mentions, lower-cased."""
        return [*self.query, *(word for name in self.words for word in name)]

    def adjacency(self) -> Tensor:
        """Return ``(4, N, N)`` bool: type, target, source."""
        dense = torch.zeros(len(EDGE_TYPES), self.num_nodes, self.num_nodes, dtype=torch.bool)
        dense[self.edge_type, self.edge_index[1], self.edge_index[0]] = True
        return dense


@dataclass(frozen=True)
class Graphs:
    """The graphs of items, those that were left out, and counts: what there is, and what was cut."""

    graphs: list[MentionGraph]
    left_out: LeftOut
    counts: Counter[str] = field(default_factory=Counter)


def make_graphs(items: Iterable[Item], limits: Limits = Limits(), chains: Chains | None = None) -> Graphs:
    """Return the graphs of items, in their order.

    Left out are items that mention no candidate (or none within the limits). Counted are "graphs", "nodes", "edges",
    and edges by type; "nodes cut", "query tokens cut", "candidates cut", and "answers cut" with them; "answers not
    mentioned", and "gold chains cut".

    Args:
        items: to make graphs of.
        limits: how much of an item is taken.
        chains: coreference from a file, by the items' ids; None: by the rule.
    """
    made = Graphs([], LeftOut())
    for item in items:
        graph = make_graph(item, limits, chains, made.counts)
        if graph is None:
            made.left_out.add("no candidate in any document", item.id)
        else:
            made.graphs.append(graph)
    return made


def make_graph(
    item: Item,
    limits: Limits = Limits(),
    chains: Chains | None = None,
    counts: Counter[str] | None = None,
) -> MentionGraph | None:
    """Return the graph of an item; None where no candidate is mentioned. See :func:`make_graphs`."""
    counts = Counter() if counts is None else counts
    documents = [tokenize(text) for text in item.supports]
    names = find_mentions(item.candidates[: limits.candidates], item.subject, documents)
    given = None if chains is None else chains.get(item.id, [])
    found = by_rule(names, documents) if given is None else by_file(names, documents, given, counts)
    mentions = found[: limits.nodes]
    if not any(mention.candidate >= 0 for mention in mentions):
        return None
    query = words(f"{item.relation} {item.subject}")
    counts["nodes cut"] += max(0, len(found) - limits.nodes)
    counts["query tokens cut"] += max(0, len(query) - limits.query)
    counts["candidates cut"] += max(0, len(item.candidates) - limits.candidates)
    answer = -1 if item.answer is None else item.answer
    if answer >= limits.candidates:
        counts["answers cut"] += 1
        answer = -1
    elif answer >= 0 and all(mention.candidate != answer for mention in mentions):
        counts["answers not mentioned"] += 1
    edge_type, target, source = edges(mentions, [documents[m.document].words[m.start : m.end] for m in mentions])
    counts.update({"nodes": len(mentions), "edges": len(source), "graphs": 1})
    for name, count in zip(EDGE_TYPES, np.bincount(edge_type, minlength=len(EDGE_TYPES)).tolist(), strict=True):
        counts[name] += count
    gold = _gold(item, mentions, edge_type, target, source)
    counts["gold chains cut"] += item.gold is not None and gold is None
    numbers = np.array([(*m.place, m.candidate, m.subject, m.anaphor) for m in mentions], np.int64)
    return MentionGraph(
        item=item,
        query=query[: limits.query],
        words=tuple(documents[m.document].words[m.start : m.end] for m in mentions),
        candidate=torch.from_numpy(numbers[:, 3].copy()),
        document=torch.from_numpy(numbers[:, 0].copy()),
        span=torch.from_numpy(numbers[:, 1:3].copy()),
        subject=torch.from_numpy(numbers[:, 4] == 1),
        anaphor=torch.from_numpy(numbers[:, 5] == 1),
        edge_index=torch.from_numpy(np.stack([source, target])),
        edge_type=torch.from_numpy(edge_type),
        num_candidates=min(len(item.candidates), limits.candidates),
        answer=answer,
        gold=gold,
    )


def edges(mentions: Sequence[Mention], names: Sequence[tuple[str, ...]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the types, targets and sources of all edges between mentions with these tokens, each ``(E,)``."""
    numbers: dict[tuple[str, ...], int] = {}
    # anaphors have numbers of their own, so that they match nothing
    named = [
        -1 - place if mention.anaphor else numbers.setdefault(name, len(numbers))
        for place, (mention, name) in enumerate(zip(mentions, names, strict=True))
    ]
    chained = [mention.chain if mention.chain >= 0 else -1 - place for place, mention in enumerate(mentions)]
    keys = np.array([named, [mention.document for mention in mentions], chained])
    dense = np.empty((len(EDGE_TYPES), len(mentions), len(mentions)), bool)
    np.equal(keys[:, :, None], keys[:, None, :], out=dense[:COMPLEMENT])
    dense[:, np.arange(len(mentions)), np.arange(len(mentions))] = False
    np.logical_not(dense[:COMPLEMENT].any(0), out=dense[COMPLEMENT])
    np.fill_diagonal(dense[COMPLEMENT], False)
    edge_type, target, source = dense.nonzero()
    return edge_type, target, source


def _gold(
    item: Item, mentions: Sequence[Mention], edge_type: np.ndarray, target: np.ndarray, source: np.ndarray
) -> Tensor | None:
    """Return the edges of the item's chain, if all are there."""
    if item.gold is None:
        return None
    nodes = {mention.place: node for node, mention in enumerate(mentions)}
    chain = [nodes.get(place, -1) for place in item.gold.chain]
    found = []
    for name, start, end in zip(item.gold.edges, chain, chain[1:], strict=False):
        number = EDGE_TYPES.index(name) if name in EDGE_TYPES else -1
        places = np.flatnonzero((edge_type == number) & (target == end) & (source == start))
        if len(places) != 1:
            return None
        found.append(int(places[0]))
    return torch.tensor(found, dtype=torch.long) if found else None

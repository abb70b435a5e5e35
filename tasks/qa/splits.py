"""Graphs of mentions as splits: what the model reads of them, what the answer is, and which edges lead to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from attribench.base.seeds import generator
from attribench.model.graphs import GraphBatch, named_keys
from attribench.plugins.task import Extras, Split

from .graphs import MentionGraph, edges
from .mentions import Mention
from .model import CALLS
from .vectors import WordVectors


@dataclass(frozen=True)
class Sizes:
    """What is the same in all splits.

    Args:
        tokens: of the longest query.
        choices: C, candidates of the item that has most.
    """

    tokens: int
    choices: int

    @staticmethod
    def of(graphs: Sequence[MentionGraph]) -> Sizes:
        """Return those of some graphs."""
        return Sizes(max(len(graph.query) for graph in graphs), max(graph.num_candidates for graph in graphs))


def make_split(graphs: Sequence[MentionGraph], vectors: WordVectors, sizes: Sizes, name: str) -> Split:
    """Return a split of graphs, in their order; an answer that is not known has the label C.

    Nodes have ``x`` ``(N, F)``, the mean of the vectors of a name's words, ``subject`` ``(N,)`` bool, whether it is the
    query's, and ``candidate`` ``(N,)``; edges ``edge_type``; graphs ``query`` ``(G, T, F)``, the vectors of its words,
    ``query_length`` ``(G,)`` and ``choices`` ``(G, C)`` bool, candidates that are mentioned.
    """
    nodes = torch.tensor([0, *(graph.num_nodes for graph in graphs)])
    counts = torch.tensor([0, *(len(graph.edge_type) for graph in graphs)])
    first, count = nodes.cumsum(0), len(graphs)
    named = cache(vectors.name)
    query = torch.zeros(count, sizes.tokens, vectors.size)
    choices = torch.zeros(count, sizes.choices, dtype=torch.bool)
    for row, graph in enumerate(graphs):
        for place, word in enumerate(graph.query):
            query[row, place] = torch.from_numpy(vectors.word(word))
        choices[row, graph.candidate[graph.candidate >= 0]] = True
    names = np.stack([named(name) for graph in graphs for name in graph.words])
    labels = torch.tensor([graph.answer if graph.answer >= 0 else sizes.choices for graph in graphs])
    batch = GraphBatch(
        edge_index=torch.cat([graph.edge_index + first[row] for row, graph in enumerate(graphs)], dim=1),
        node_ptr=first,
        edge_ptr=counts.cumsum(0),
        graph_key=named_keys(count, f"qa {name}"),
        edge_key=torch.cat([_keys(graph) for graph in graphs]),
        node={
            "x": torch.from_numpy(names),
            "subject": torch.cat([graph.subject for graph in graphs]),
            "candidate": torch.cat([graph.candidate for graph in graphs]),
        },
        edge={"edge_type": torch.cat([graph.edge_type for graph in graphs])},
        graph={
            "query": query,
            "query_length": torch.tensor([len(graph.query) for graph in graphs]),
            "choices": choices,
        },
    )
    return Split(batch, labels, gold_of(graphs), extras=told(graphs))


def _keys(graph: MentionGraph) -> Tensor:
    """Return ``(E,)``: an edge's place among all entries of the matrices, which no order of edges changes."""
    source, target = graph.edge_index
    keys: Tensor = (graph.edge_type * graph.num_nodes + target) * graph.num_nodes + source
    return keys


def example(like: GraphBatch, num_nodes: int, seed: int = 0) -> GraphBatch:
    """Return a graph of ``num_nodes`` mentions, drawn at random, that a model of graphs ``like`` these takes.

    Every candidate has about as many mentions, and a document holds six.
    """
    draw = generator("qa example", num_nodes, seed)
    count = like["choices"].shape[1]
    candidate = torch.arange(num_nodes).remainder(count)[torch.randperm(num_nodes, generator=draw)].tolist()
    mentions = [
        Mention(document=n // 6, start=n % 6, end=n % 6 + 1, candidate=c, subject=n == 0)
        for n, c in enumerate(candidate)
    ]
    edge_type, target, source = map(torch.from_numpy, edges(mentions, [(str(c),) for c in candidate]))
    one = like.select(torch.zeros(1, dtype=torch.long, device=like.device))
    batch = GraphBatch(
        edge_index=torch.stack([source, target]),
        node_ptr=torch.tensor([0, num_nodes]),
        edge_ptr=torch.tensor([0, len(source)]),
        graph_key=named_keys(1, f"qa example {num_nodes}"),
        edge_key=torch.arange(len(source)),
        node={
            "x": torch.randn(num_nodes, like["x"].shape[1], generator=draw, dtype=like["x"].dtype),
            "subject": torch.arange(num_nodes) == 0,
            "candidate": torch.tensor(candidate),
        },
        edge={"edge_type": edge_type},
    ).to(like.device)
    return replace(batch, graph={**one.graph, "choices": torch.ones_like(one["choices"])})


def gold_of(graphs: Sequence[MentionGraph]) -> Tensor | None:
    """Return ``(L, E)`` bool: of every chain the k-th edge in the k-th layer, a chain of one in the last.

    None where the chain of some graph is not known.
    """
    if any(graph.gold is None for graph in graphs):
        return None
    total = sum(len(graph.edge_type) for graph in graphs)
    gold, first = torch.zeros(CALLS, total, dtype=torch.bool), 0
    for graph in graphs:
        assert graph.gold is not None
        layers = torch.arange(CALLS - len(graph.gold), CALLS)
        gold[layers, graph.gold + first] = True
        first += len(graph.edge_type)
    return gold


def told(graphs: Sequence[MentionGraph]) -> Extras:
    """Return what is known of the graphs beyond what the model reads."""
    groups = []
    for graph in graphs:
        known = zip(graph.anaphor.tolist(), graph.subject.tolist(), graph.candidate.tolist(), strict=True)
        groups += [_group(*what, graph.answer) for what in known]
    return Extras(
        node={
            "name": [" ".join(name) for graph in graphs for name in graph.words],
            "group": groups,
            "document": torch.cat([graph.document for graph in graphs]),
        },
        graph={
            "id": [graph.item.id for graph in graphs],
            "question": [graph.item.query for graph in graphs],
            "answer": ["" if graph.answer < 0 else graph.item.candidates[graph.answer] for graph in graphs],
            "chain": torch.tensor([0 if graph.gold is None else len(graph.gold) for graph in graphs]),
        },
    )


def _group(anaphor: bool, subject: bool, candidate: int, answer: int) -> str:
    """Return a mention's part in its question."""
    if anaphor:
        return "anaphor"
    if subject:
        return "subject"
    return "answer" if candidate == answer else "other candidate"

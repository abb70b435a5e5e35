"""Sentences to graphs: one graph per predicate, its nodes the tokens of its sentence, its edges the dependency arcs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attribench.base.seeds import generator
from attribench.model.graphs import GraphBatch, named_keys
from attribench.plugins.task import Extras, Split

from .columns import GOLD, Columns, lemmas, tags, tree
from .conll import Sentence

NONE = "O"
"""The role of tokens that are no argument; class 0."""

UNKNOWN = 0
"""Of every vocabulary the place for what is not in it."""


@dataclass(frozen=True)
class Vocabulary:
    """What has a number, in the order of the numbers.

    Args:
        words: lower-cased forms that have fixed vectors; 0 is for all others.
        known: lower-cased forms whose vectors are trained; 0 is for all others.
        tags: parts of speech; 0 is for all others.
        lemmas: of predicates; 0 is for all others.
        relations: dependency relations; the type of an arc's messages is twice its relation's number, and one more
            against the arc. 0 is for all others.
        roles: 0 is "none".
        columns: where trees, tags and lemmas are read.
    """

    words: dict[str, int]
    known: dict[str, int]
    tags: dict[str, int]
    lemmas: dict[str, int]
    relations: dict[str, int]
    roles: dict[str, int]
    columns: Columns = GOLD

    @staticmethod
    def of(train: Sequence[Sentence], words: Sequence[str], least: int, columns: Columns = GOLD) -> Vocabulary:
        """Number what occurs in the training sentences at least ``least`` times (tags, relations and roles: at all)."""
        forms = Counter(form.lower() for sentence in train for form in sentence.form)
        parts = Counter(tag for sentence in train for tag in tags(sentence, columns))
        bases = Counter(lemmas(sentence, columns)[i].lower() for sentence in train for i in sentence.predicates)
        relations = Counter(relation for sentence in train for relation in tree(sentence, columns)[1])
        roles = Counter(role for sentence in train for roles in sentence.roles for role in roles if role != "_")
        return Vocabulary(
            {word: i for i, word in enumerate(words, start=1)},
            _numbered(forms, least),
            _numbered(parts, 1),
            _numbered(bases, least),
            _numbered(relations, 1),
            _numbered(roles, 1),
            columns,
        )

    def edge_types(self) -> tuple[str, ...]:
        """Return the names of the messages' types."""
        names = ["?", *self.relations]
        return tuple(f"{name}{arrow}" for name in names for arrow in (" along", " against"))

    def role_names(self) -> tuple[str, ...]:
        """Return the names of the roles."""
        return (NONE, *self.roles)


def _numbered(counts: Counter[str], least: int) -> dict[str, int]:
    frequent = [name for name, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])) if count >= least]
    return {name: i for i, name in enumerate(frequent, start=1)}


def make_split(sentences: Sequence[Sentence], vocabulary: Vocabulary, name: str, shuffle_heads: bool = False) -> Split:
    """Return a graph for every predicate, in the order of the sentences.

    Nodes carry ``word``, ``known``, ``tag`` and ``flag`` (1 at the predicate); edges ``edge_type`` and ``direction`` (0
    along the arc, from head to dependent; 1 against it); graphs ``lemma``, ``position`` (of the predicate) and
    ``sentence``. Labels are the roles ``(N,)``; one that training has not shown is the number after the last, which no
    model predicts.

    Args:
        sentences: to make graphs of.
        vocabulary: numbers, and the columns that they are of.
        name: of the split, for the graphs' keys.
        shuffle_heads: give every token but the roots a head at random among the other tokens of its sentence, and deal
            the relations of the sentence out anew.
    """
    one_each = _sentence_batch(sentences, vocabulary, shuffle_heads)
    owner = [i for i, sentence in enumerate(sentences) for _ in sentence.predicates]
    position = [p for sentence in sentences for p in sentence.predicates]
    columns = vocabulary.columns
    lemma = [vocabulary.lemmas.get(lemmas(s, columns)[p].lower(), UNKNOWN) for s in sentences for p in s.predicates]
    numbers = {"_": 0, **vocabulary.roles}
    roles = [numbers.get(role, len(numbers)) for s in sentences for column in s.roles for role in column]
    chosen = torch.tensor(owner, dtype=torch.long)
    graphs = one_each.select(chosen)
    where = torch.tensor(position, dtype=torch.long)
    flag = torch.zeros(graphs.num_nodes, dtype=torch.long)
    flag[graphs.node_ptr[:-1] + where] = 1
    graphs = replace(
        graphs,
        graph_key=named_keys(graphs.num_graphs, name),
        node={**graphs.node, "flag": flag},
        graph={"lemma": torch.tensor(lemma, dtype=torch.long), "position": where, "sentence": chosen},
    )
    return Split(graphs, torch.tensor(roles, dtype=torch.long))


def told(split: Split, sentences: Sequence[Sentence], vocabulary: Vocabulary) -> Split:
    """Return a split of :func:`make_split` with what its sentences say beyond the numbers.

    Of tokens the word (``name``), ``part_of_speech``, ``role``, and what they are to the predicate (``group``); of
    graphs ``predicate`` (its sense, such as say.01), ``lemma``, ``position`` and ``sentence``.
    """
    graphs, columns, names = split.graphs, vocabulary.columns, vocabulary.role_names()
    pairs = [(s, k) for s in sentences for k in range(len(s.predicates))]
    said = [role for s, k in pairs for role in s.roles[k]]
    # by the labels, which of a blind file are the model's; those that training has not shown have a name all the same
    roles = [names[i] if i < len(names) else role for i, role in zip(split.labels.tolist(), said, strict=True)]
    groups = ["other" if role == NONE else "argument" for role in roles]
    for node in (graphs.node_ptr[:-1] + graphs["position"]).tolist():
        groups[node] = "predicate"
    tokens = {
        "name": [form for s, _ in pairs for form in s.form],
        "part_of_speech": [tag for s, _ in pairs for tag in tags(s, columns)],
        "role": roles,
        "group": groups,
    }
    of_graphs: dict[str, Tensor | list[str]] = {
        "predicate": [s.pred[k] for s, k in pairs],
        "lemma": [lemmas(s, columns)[s.predicates[k]] for s, k in pairs],
        "position": graphs["position"],
        "sentence": graphs["sentence"],
    }
    return replace(split, extras=Extras(node=tokens, graph=of_graphs))


def _sentence_batch(sentences: Sequence[Sentence], vocabulary: Vocabulary, shuffle_heads: bool) -> GraphBatch:
    """Return one graph per sentence."""
    words, known = (
        torch.tensor([numbers.get(form.lower(), UNKNOWN) for s in sentences for form in s.form], dtype=torch.long)
        for numbers in (vocabulary.words, vocabulary.known)
    )
    tag = torch.tensor(
        [vocabulary.tags.get(x, UNKNOWN) for s in sentences for x in tags(s, vocabulary.columns)], dtype=torch.long
    )
    trees = [tree(sentence, vocabulary.columns) for sentence in sentences]
    types = torch.tensor([vocabulary.relations.get(r, UNKNOWN) for _, relations in trees for r in relations])
    heads = torch.tensor([head for heads, _ in trees for head in heads], dtype=torch.long)
    sizes = torch.tensor([0, *(len(s.form) for s in sentences)])
    node_ptr = sizes.cumsum(0)
    owner = torch.repeat_interleave(torch.arange(len(sentences)), sizes[1:])
    if shuffle_heads:
        heads, types = _shuffled(heads, types, owner)
    dependent = (heads > 0).nonzero()[:, 0]
    head = node_ptr[owner[dependent]] + heads[dependent] - 1
    along, against = torch.stack([head, dependent]), torch.stack([dependent, head])
    # both messages of an arc stand together, so that each sentence's edges are contiguous
    edge_index = torch.stack([along, against], dim=2).flatten(1)
    direction = torch.arange(2).repeat(len(dependent))
    counts = torch.bincount(owner[dependent], minlength=len(sentences)) * 2
    edge_ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return GraphBatch(
        edge_index=edge_index,
        node_ptr=node_ptr,
        edge_ptr=edge_ptr,
        graph_key=torch.arange(len(sentences)),
        edge_key=torch.arange(edge_index.shape[1]) - edge_ptr[:-1].repeat_interleave(counts),
        node={"word": words, "known": known, "tag": tag},
        edge={"edge_type": 2 * types[dependent].repeat_interleave(2) + direction, "direction": direction},
    )


def _shuffled(heads: Tensor, types: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a head for every token that has one, and deal out the relations, within each sentence."""
    draw = generator("shuffled heads")
    sizes = torch.bincount(owner)
    own = torch.arange(1, len(heads) + 1) - (sizes.cumsum(0) - sizes)[owner]
    other = (torch.rand(len(heads), generator=draw, dtype=torch.float64) * (sizes[owner] - 1)).long() + 1
    drawn = torch.where(heads > 0, other + (other >= own).long(), 0)
    relations = types.clone()
    arcs = (heads > 0).nonzero()[:, 0]
    order = owner[arcs] + torch.rand(len(arcs), generator=draw, dtype=torch.float64)
    relations[arcs] = types[arcs[order.argsort()]]
    return drawn, relations

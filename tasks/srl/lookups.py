"""Two lookup tables beside which a labeller is told: what can be had without a model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from .columns import GOLD, Columns, tags, tree
from .conll import Sentence


def lookups(train: Sequence[Sentence], test: Sequence[Sentence], columns: Columns = GOLD) -> dict[str, float]:
    """Return the F1 on test of two tables made from the training sentences, which know no tree or only one arc of it.

    A table gives every token the most frequent role of training tokens with the same offset from the predicate and the
    same tag, or with the same relation to it (that of the arc between the two, and its direction).
    """
    figures = {}
    for name, describe in (("lookup_offset_and_tag", _offset_and_tag), ("lookup_relation", _relation)):
        counts: dict[Any, Counter[str]] = defaultdict(Counter)
        for what, role in _described(train, describe, columns):
            counts[what][role] += 1
        table = {what: found.most_common(1)[0][0] for what, found in counts.items()}
        right = predicted = there = 0
        for what, role in _described(test, describe, columns):
            guess = table.get(what, "_")
            right += guess == role != "_"
            predicted += guess != "_"
            there += role != "_"
        figures[name] = 2 * right / max(1, predicted + there)
    return figures


def _described(sentences: Sequence[Sentence], describe: Any, columns: Columns) -> Any:
    for sentence in sentences:
        for predicate, roles in zip(sentence.predicates, sentence.roles, strict=True):
            for token, role in enumerate(roles):
                yield describe(sentence, token, predicate, columns), role


def _offset_and_tag(sentence: Sentence, token: int, predicate: int, columns: Columns) -> tuple[int, str]:
    return token - predicate, tags(sentence, columns)[token]


def _relation(sentence: Sentence, token: int, predicate: int, columns: Columns) -> tuple[str, str]:
    heads, relations = tree(sentence, columns)
    if heads[token] == predicate + 1:
        return "along", relations[token]
    return ("against", relations[predicate]) if heads[predicate] == token + 1 else ("far", "")

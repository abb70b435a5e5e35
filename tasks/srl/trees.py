"""A dependency tree as the rules for roles read it (Universal Dependencies 1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Tree:
    """A sentence; positions count from 0, and a root's head is -1.

    Args:
        forms: words.
        lemmas: of the words.
        tags: of the Penn Treebank.
        heads: positions.
        relations: to the heads.
    """

    forms: list[str]
    lemmas: list[str]
    tags: list[str]
    heads: list[int]
    relations: list[str]

    @cached_property
    def _children(self) -> list[list[int]]:
        children: list[list[int]] = [[] for _ in self.heads]
        for position, head in enumerate(self.heads):
            if head >= 0:
                children[head].append(position)
        return children

    def children(self, position: int, *relations: str) -> list[int]:
        """Return the dependents of a word, all or those with one of these relations, in the sentence's order."""
        found = self._children[position]
        return [child for child in found if self.relations[child] in relations] if relations else found

    def word(self, position: int) -> str:
        """Return the lower-cased form."""
        return self.forms[position].lower()

    def lemma(self, position: int) -> str:
        """Return the lower-cased lemma."""
        return self.lemmas[position].lower()

    def whole(self, position: int) -> str:
        """Return a word with the other words of its fixed expression: because of."""
        parts = [position, *self.children(position, "mwe", "goeswith")]
        return " ".join(self.word(part) for part in sorted(parts))

    def is_verb(self, position: int) -> bool:
        """Say whether a predicate is a verb; "the problem is getting there" has no verb as its predicate."""
        tag = self.tags[position]
        return tag == "MD" or (tag.startswith("VB") and (tag == "VBN" or not self.children(position, "cop")))

    def ancestors(self, position: int) -> list[int]:
        """Return the word, its head, the head's head and so on up to the root."""
        path = [position]
        while self.heads[path[-1]] >= 0:
            path.append(self.heads[path[-1]])
        return path

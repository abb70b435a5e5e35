"""Mentions of the query's subject and of the candidates in an item's documents.

Texts are cut into runs of letters, digits and underscores, and single other characters, and lower-cased. A name is
mentioned where its tokens stand; of names that overlap, the longer counts, and of equally long ones the first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_TOKEN = re.compile(r"[\w\u0300-\u036f]+|[^\w\s]")
"""With combining marks: the Turkish capital I with a dot has one, once it is lower-cased."""


STOPS = frozenset(".;!?")
"""Tokens that end a sentence."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text's tokens: W lower-cased words, and where they stand in the text."""

    words: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    """First character of each, and the one after its last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """Where a document speaks of a candidate or of the subject; positions count from 0."""

    document: int
    start: int
    end: int
    """The token after the last."""
    candidate: int
    """-1 of the subject, where it is no candidate."""
    subject: bool
    anaphor: bool = False
    """Whether it is no name, such as "the city"."""
    chain: int = -1
    """A number that mentions of one coreference chain share; -1 in none."""

    @property
    def place(self) -> tuple[int, int, int]:
        """Document, first token and the token after the last."""
        return self.document, self.start, self.end

    @property
    def entity(self) -> tuple[int, bool]:
        """What is mentioned."""
        return self.candidate, self.subject


def tokenize(text: str) -> Tokens:
    """Cut a text into tokens."""
    found = list(_TOKEN.finditer(text))
    return Tokens(tuple(match.group().lower() for match in found), tuple(match.span() for match in found))


def words(text: str) -> tuple[str, ...]:
    """Return a text's lower-cased tokens."""
    return tokenize(text).words


def find_mentions(candidates: Sequence[str], subject: str, documents: Sequence[Tokens]) -> list[Mention]:
    """Return the mentions of candidates and of a query's subject, by document and place.

    A mention of a name that several candidates have (they differ in case or in blanks) is the first one's.
    """
    names: dict[tuple[str, ...], tuple[int, bool]] = {}
    for number, candidate in enumerate(candidates):
        names.setdefault(words(candidate), (number, False))
    asked = words(subject)
    names[asked] = names.get(asked, (-1, False))[0], True
    names.pop((), None)
    by_first: dict[str, list[tuple[str, ...]]] = {}
    for name in names:
        by_first.setdefault(name[0], []).append(name)
    mentions = []
    for document, tokens in enumerate(documents):
        for start, name in _found(tokens.words, by_first):
            number, is_subject = names[name]
            mentions.append(
                Mention(document=document, start=start, end=start + len(name), candidate=number, subject=is_subject)
            )
    return mentions


def _found(tokens: tuple[str, ...], by_first: dict[str, list[tuple[str, ...]]]) -> list[tuple[int, tuple[str, ...]]]:
    """Return the first tokens and the names of mentions that do not overlap, longest first, in the text's order."""
    matches = [
        (start, name)
        for start, token in enumerate(tokens)
        for name in by_first.get(token, ())
        if tokens[start : start + len(name)] == name
    ]
    taken = [False] * len(tokens)
    kept = []
    for start, name in sorted(matches, key=lambda match: (-len(match[1]), match[0])):
        place = slice(start, start + len(name))
        if not any(taken[place]):
            taken[place] = [True] * len(name)
            kept.append((start, name))
    return sorted(kept)

"""Coreference: which anaphors ("the city") stand for a mention, from a rule or from a file of the user's.

Anaphors become mentions of what they stand for; mentions of one thing in one document share a chain.

The rule. "the NOUN" and "this NOUN", with a noun of :data:`NOUNS`, stand for the nearest mention before them, in the
same document, that the document calls so before: "X is a city ...", "X, a city ...", "the city X", "the city of X" (at
most :data:`REACH` words between the mention and the noun, and no other mention and no full stop). Where none is called
so, they stand for the document's first mention, if it opens the document, as the title's does in an encyclopaedia. Else
they stand for nothing. "the city of X" and "the city X" are no anaphors.

The file. A JSON object: for ids of items lists of chains, each a list of ``[document, first character, character after
the last]``, counted from 0. A chain counts where all its mentions that are names of candidates or of the subject are of
one of them; then its other places are anaphors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attribench.base.errors import UserError, printable

from .mentions import STOPS, Mention, Tokens
from .wikihop import is_numbers, load_json

NOUNS = frozenset(
    (
        *("album", "band", "book", "city", "club", "college", "company", "country", "county", "district"),
        *("film", "game", "island", "kingdom", "lake", "magazine", "mountain", "municipality", "nation"),
        *("newspaper", "novel", "party", "province", "region", "republic", "river", "school", "series"),
        *("single", "song", "state", "team", "town", "university", "village"),
    )
)
REACH = 6
"""Words between a mention and the noun that it is called."""
_OPENING = 3
"""Tokens before the end of which a mention opens a document: "The X"."""
_BE = frozenset((",", "is", "was", "are", "were"))
_ARTICLES = frozenset(("a", "an", "one", "the"))
Chains = dict[str, list[list[tuple[int, int, int]]]]


def by_rule(mentions: Sequence[Mention], documents: Sequence[Tokens]) -> list[Mention]:
    """Return the mentions with the rule's anaphors among them, by document and place, and with chains."""
    of_documents: list[list[Mention]] = [[] for _ in documents]
    for mention in mentions:
        of_documents[mention.document].append(mention)
    found = []
    for names, tokens in zip(of_documents, documents, strict=True):
        anaphors = _anaphors(names, tokens.words) if names else []
        found += sorted([*names, *anaphors], key=lambda mention: mention.place)
    return _chained(found)


def _anaphors(names: list[Mention], words: tuple[str, ...]) -> list[Mention]:
    covered = {token for mention in names for token in range(mention.start, mention.end)}
    starts = {mention.start for mention in names}
    called = [(mention, noun, at) for mention in names for noun, at in _nouns(mention, words, covered, starts)]
    found = []
    for at in range(1, len(words)):
        noun = words[at]
        if noun not in NOUNS or words[at - 1] not in ("the", "this") or {at - 1, at} & covered:
            continue
        if at + 1 in starts or (words[at + 1 : at + 2] == ("of",) and at + 2 in starts):
            continue
        known = [
            mention for mention, name, place in called if name == noun and mention.end <= at - 1 and place < at - 1
        ]
        first = names[0]
        if known:
            found.append(_anaphor(max(known, key=lambda mention: mention.start), at - 1, at + 1))
        elif first.start < _OPENING and first.end <= at - 1 and all(mention is not first for mention, *_ in called):
            found.append(_anaphor(first, at - 1, at + 1))
    return found


def _anaphor(antecedent: Mention, start: int, end: int) -> Mention:
    return replace(antecedent, start=start, end=end, anaphor=True)


def _nouns(mention: Mention, words: tuple[str, ...], covered: set[int], starts: set[int]) -> list[tuple[str, int]]:
    """Return the nouns that a document calls a mention, with their places."""
    found = []
    before = mention.start - 1
    if before >= 1 and words[before] == "of":
        before -= 1
    if before >= 1 and words[before] in NOUNS and words[before - 1] == "the":
        found.append((words[before], before))
    after = words[mention.end : mention.end + 2]
    if len(after) < 2 or after[0] not in _BE or after[1] not in _ARTICLES:
        return found
    first = mention.end + 2
    for at in range(first, min(first + REACH, len(words))):
        if at in covered or words[at] in STOPS:
            break
        if words[at] in NOUNS:
            found.append((words[at], at))
            break
    return found


def _chained(mentions: list[Mention]) -> list[Mention]:
    """Give mentions of one thing in one document a number, where there are several."""
    keys = [(mention.document, *mention.entity) for mention in mentions]
    counts = Counter(keys)
    numbers = {key: number for number, key in enumerate(key for key, count in counts.items() if count > 1)}
    return [replace(mention, chain=numbers.get(key, -1)) for mention, key in zip(mentions, keys, strict=True)]


def read_chains(path: Path) -> Chains:
    """Return a file's chains, by the items' ids; one that ends in ``.gz`` is unpacked.

    Raises:
        UserError: when it is not in the format of the module's docstring.
    """
    found = load_json(path, "a file of coreference chains (JSON)")
    if not isinstance(found, dict):
        raise UserError(f"expected an object, lists of chains by ids of items; {path}: got another: check the file")
    return {
        name: [_chain(chain, f"{path}: {name}") for chain in _list(chains, path, name)]
        for name, chains in found.items()
    }


def _list(chains: object, path: Path, name: str) -> list[object]:
    if not isinstance(chains, list):
        raise UserError(f"expected a list of chains; {path}: {printable(name)}: got another: mend it")
    return chains


def _chain(chain: Any, where: str) -> list[tuple[int, int, int]]:
    places = chain if isinstance(chain, list) else [chain]
    for place in places:
        if not is_numbers(place, 3) or not (place[0] >= 0 and 0 <= place[1] < place[2]):
            raise UserError(
                "expected chains of [document, first character, character after the last]; "
                f"{printable(where)}: got {printable(str(place))[:60]}: mend it"
            )
    return [(place[0], place[1], place[2]) for place in places]


def by_file(
    mentions: Sequence[Mention],
    documents: Sequence[Tokens],
    chains: Sequence[Sequence[tuple[int, int, int]]],
    counts: Counter[str],
) -> list[Mention]:
    """Return the mentions with a file's anaphors among them, by document and place, and with chains.

    Args:
        mentions: names.
        documents: the documents' tokens.
        chains: of the item.
        counts: to which is added how many chains were used, had no name, or names of several; and how many places
            hold no token, overlap others, or are in no document.
    """
    owner = {(m.document, token): place for place, m in enumerate(mentions) for token in range(m.start, m.end)}
    found = list(mentions)
    number = 0
    for chain in chains:
        spans = [span for place in chain if (span := _tokens(place, documents, counts)) is not None]
        named = {owner[d, t] for d, start, end in spans for t in range(start, end) if owner.get((d, t), -1) >= 0}
        entities = {mentions[place].entity for place in named}
        if len(entities) != 1:
            counts["chains of several" if entities else "chains without a name"] += 1
            continue
        counts["chains"] += 1
        for place in named:
            found[place] = replace(found[place], chain=number)
        some = mentions[next(iter(named))]
        for document, start, end in spans:
            inside = [(document, token) for token in range(start, end)]
            if any(token in owner for token in inside):
                # the name itself, or a longer phrase about it
                counts["places in use"] += all(owner.get(token, -1) < 0 for token in inside)
                continue
            owner.update(dict.fromkeys(inside, -1))
            found.append(replace(some, document=document, start=start, end=end, anaphor=True, chain=number))
        number += 1
    return sorted(found, key=lambda mention: mention.place)


def _tokens(
    place: tuple[int, int, int], documents: Sequence[Tokens], counts: Counter[str]
) -> tuple[int, int, int] | None:
    """Return a place in characters as one in tokens, if there are any."""
    document, first, last = place
    if document >= len(documents):
        counts["places in no document"] += 1
        return None
    inside = [i for i, (start, end) in enumerate(documents[document].spans) if start < last and end > first]
    if not inside:
        counts["places without a token"] += 1
        return None
    return document, inside[0], inside[-1] + 1

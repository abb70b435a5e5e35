"""Roles of phrases with a preposition, of dates and of measures: from the preposition, the noun and the predicate."""

from __future__ import annotations

import re

from . import role_words as words
from .trees import Tree

_YEAR = re.compile(r"1[4-9]\d\d|20\d\d|(1\d|20)?\d0'?s")
_CLOCK = re.compile(r"\d{1,2}(:\d\d){1,2}|(\d{1,2}([:.]\d\d)?)?[ap]\.?m\.?")
_DATE = re.compile(r"\d{1,2}/\d{1,2}|\d{1,2}([/.-])\d{1,2}\1\d{2,4}|\d{4}-\d\d-\d\d|\d{1,2}(st|nd|rd|th)|mid-\w+")


def prepositions(tree: Tree, noun: int) -> tuple[list[str], str]:
    """Return the prepositions of a phrase, possessives apart, and the one that decides its role, or "".

    Of several, those known as a whole ("out of", "because of") are taken whole; else it is the first that is not
    merely an outer word ("than in", "like in", "up until").
    """
    cases = [tree.whole(child) for child in tree.children(noun, "case") if not _possessive(tree, child)]
    if not cases:
        stranded = tree.word(noun) in words.PREPOSITIONS and tree.tags[noun] in ("IN", "TO", "RP")
        return cases, tree.word(noun) if stranded else ""
    whole = " ".join(cases)
    if whole in words.PREPOSITIONS:
        return cases, whole
    return cases, next((case for case in cases if case not in words.OUTER), cases[-1])


def preposition(tree: Tree, noun: int) -> str:
    """Return the preposition that decides the role of a phrase; "" where there is none."""
    return prepositions(tree, noun)[1]


def is_time(tree: Tree, noun: int, before: str) -> bool:
    """Say whether a noun (or number) after this preposition is a time: Friday, 1995, 5:30 pm, the end of the year."""
    form, lemma, tag = tree.word(noun), tree.lemma(noun), tree.tags[noun]
    if form in words.NAMED_TIMES:
        return tag.startswith("NNP") or form.endswith(".")
    if form in words.TIMES or lemma in words.TIMES or _CLOCK.fullmatch(form) or _DATE.fullmatch(form):
        return True
    if tag == "CD" or _YEAR.fullmatch(form):
        alone = not any(tree.word(child) in "$%" for child in tree.children(noun))
        hour = before == "at" and re.fullmatch(r"\d{1,4}", form) is not None
        return alone and (hour or (before in words.YEAR_PREPOSITIONS and _YEAR.fullmatch(form) is not None))
    if lemma in words.PARTS:
        return any(
            is_time(tree, child, "of") for child in tree.children(noun, "nmod") if preposition(tree, child) == "of"
        )
    return False


def modifier(tree: Tree, predicate: int, before: str, noun: int, passive: bool) -> str:
    """Return the role of the phrase of a noun with this preposition.

    Args:
        tree: of the sentence.
        predicate: position of the predicate.
        before: the preposition, or "".
        noun: position of the noun; of the antecedent where a relative pronoun stands in the phrase.
        passive: the predicate's voice.
    """
    if before in words.ALWAYS and before != "after":
        return words.PREPOSITIONS[before]
    lemma, verb = tree.lemma(predicate), tree.is_verb(predicate)
    known = words.NOUN_ROLES.get((before, tree.lemma(noun))) or words.NOUN_ROLES.get((before, tree.word(noun)))
    time = before in words.TIME_PREPOSITIONS and is_time(tree, noun, before)
    if known == "AM-TMP" or time:
        part_of = any(preposition(tree, child) == "of" for child in tree.children(noun, "nmod"))
        if time or not part_of or tree.lemma(noun) not in words.PARTS:
            return "AM-TMP"
        known = None
    if known:
        return known
    if before == "by" and passive:
        return "A0"
    if verb and before in words.OBJECT_PREPOSITIONS:
        verbs = words.OBJECT_PREPOSITIONS[before]
        if not verbs or lemma in verbs:
            return "A2" if passive or before == "as" or tree.children(predicate, "dobj") else "A1"
    if not verb and (before in words.COMPLEMENTS and _complement(tree, predicate, before)):
        return "A2"
    if not verb and (
        tree.word(predicate) in words.ADJECTIVES.get(before, ()) or (before == "by" and lemma.endswith("able"))
    ):
        return "A0" if before == "by" else "A2"
    if before in ("for", "with") and _is_person(tree, noun):
        return "A2"
    if before in ("over", "around", "across", "along", "past", "through", "thru", "by", "off"):
        return _path(lemma, before)
    return words.PREPOSITIONS.get(before, "AM")


def _complement(tree: Tree, predicate: int, before: str) -> bool:
    return tree.tags[predicate].startswith("JJ") or before in ("of", "to", "about")


def _is_person(tree: Tree, noun: int) -> bool:
    return tree.lemma(noun) in words.PERSONS or tree.word(noun) in words.PERSONS or tree.tags[noun] == "NNP"


def _path(lemma: str, before: str) -> str:
    """Return the role of what is passed: a direction of movement, else a place or a means."""
    if before == "by":
        return "AM-LOC" if lemma in words.RESTING else "AM-MNR"
    if lemma in words.MOTION:
        return "AM-DIR"
    return "AM-MNR" if before in ("through", "thru") else "AM-LOC"


def _possessive(tree: Tree, child: int) -> bool:
    return tree.tags[child] == "POS" or tree.word(child) in ("'s", "s", "-s", "'")

"""Labels the arguments of predicates with semantic roles, by rules over a dependency tree.

UDS names the arguments of a predicate but not their roles. The rules give each the role that its place in the tree
says, after PropBank's inventory where it goes without a lexicon of senses:

=======  ==============================================================================================================
A0       agent-like: the subject of an active verb, except those in A1; *by* with a passive
A1       patient-like: the object; the subject of a passive, of *be*, of an adjective or noun, of *there is*, and of
         verbs such as *happen* or, without an object, *open*; the phrase that a verb takes in its stead (*look at*)
A2       recipient, goal, attribute or second object: *give him*, *send to*, *describe as*, *afraid of*
AC       clausal complement, secondary predicates among them
AM-...   TMP time, LOC place, DIR direction or source, MNR manner or means, CAU cause, PNC purpose or beneficiary,
         EXT extent or measure
AM       any other relation, also that of a noun to the clause that says its content (*the ability to go*)
=======  ==============================================================================================================

An argument that is no dependent of its predicate has the role that it would have there: the noun of a relative clause
that of the pronoun or of the gap, a controller or a shared subject that of the subject, a shared object that of the
object. These are derived labels, not PropBank's.
"""

from __future__ import annotations

from . import role_words as words
from .modifiers import is_time, modifier, preposition
from .trees import Tree

_SUBJECTS = ("nsubj", "nsubjpass", "csubj", "csubjpass")
_MARKS = ("auxpass", "nsubjpass", "csubjpass")
_CLAUSES = ("ccomp", "xcomp")
_PRONOUNS = ("WDT", "WP", "WP$", "WRB")
_ADVERBS = {
    **dict.fromkeys(("where", "wherein", "wherever"), "AM-LOC"),
    **dict.fromkeys(("when", "whenever", "anytime"), "AM-TMP"),
    **{"why": "AM-CAU", "how": "AM-MNR"},
}


def role(tree: Tree, predicate: int, argument: int) -> str:
    """Return the role of an argument of a predicate, both given by position."""
    if tree.heads[argument] == predicate:
        return _dependent(tree, predicate, argument)
    above = tree.ancestors(predicate)
    if argument in above:
        return _ancestor(tree, predicate, argument, above[above.index(argument) - 1])
    head, relation = tree.heads[argument], tree.relations[argument]
    if relation.startswith("nmod"):
        return _phrase(tree, predicate, argument)
    if relation == "dobj" and argument > predicate and _shares(tree, predicate, head):
        return _object(tree, predicate, argument)
    return subject(tree, predicate, argument)


def is_passive(tree: Tree, predicate: int) -> bool:
    """Say whether a predicate is in the passive voice, marked ("was posted") or bare ("Posted by Ann")."""
    return bool(tree.children(predicate, *_MARKS)) or is_bare_passive(tree, predicate)


def is_bare_passive(tree: Tree, predicate: int) -> bool:
    """Say whether a predicate is passive without a mark: "Posted by Ann", "with forces worn down", "cars made there".

    A past participle is, unless it has or shares an auxiliary other than "be" ("has seen and heard"), or has an object
    where it modifies nothing and nobody is given anything ("Done my homework"). What is tagged as past tense is where
    it has neither subject nor object, but *by*.
    """
    if tree.tags[predicate] == "VBD":
        return _has_only_agent(tree, predicate)
    if tree.tags[predicate] != "VBN" or tree.children(predicate, *_MARKS):
        return False
    if any(tree.lemma(aux) not in ("be", "get") for aux in tree.children(predicate, "aux")):
        return False
    first = tree.heads[predicate]
    if tree.relations[predicate] == "conj" and not tree.children(predicate, "aux", *_SUBJECTS):
        if is_passive(tree, first):
            return True
        if any(tree.lemma(aux) == "have" for aux in tree.children(first, "aux")):
            return False
    if not tree.children(predicate, "dobj") or tree.lemma(predicate) in words.GIVING | words.NAMING:
        return True
    modifies = tree.relations[predicate] in ("acl", "acl:relcl", "advcl", "xcomp", "amod", "ccomp")
    return modifies and not tree.children(predicate, *_SUBJECTS)


def _has_only_agent(tree: Tree, predicate: int) -> bool:
    """Say whether a verb has a phrase with "by" that may be its agent, but no subject, object or clause."""
    if tree.children(predicate, "aux", "dobj", *_SUBJECTS, *_CLAUSES):
        return False
    if tree.relations[predicate] in ("conj", "parataxis"):
        return False
    agents = [child for child in tree.children(predicate, "nmod") if preposition(tree, child) == "by"]
    return any(modifier(tree, predicate, "by", child, True) == "A0" for child in agents)


def is_expletive(tree: Tree, predicate: int) -> bool:
    """Say whether "there" stands in the subject's place: there is a plan, there seems to be one."""
    return any(tree.word(child) == "there" for child in tree.children(predicate, "expl"))


def subject(tree: Tree, predicate: int, argument: int) -> str:
    """Return the role of an argument that is the subject of its predicate, wherever it stands."""
    lemma = tree.lemma(predicate)
    if tree.relations[argument] == "csubj" and lemma == "take" and argument > predicate:
        return "A1"  # it took an hour to get there
    if is_passive(tree, predicate):
        given = lemma in words.GIVING and tree.children(predicate, "dobj")
        told = lemma in words.TELLING and tree.children(predicate, *_CLAUSES)
        return "A2" if given or told else "A1"
    if not tree.is_verb(predicate) or is_expletive(tree, predicate):
        return "A1"
    acts = tree.children(predicate, "dobj")
    if lemma in words.THEMES and (lemma in ("be", "become", "cost", "weigh") or not acts):
        return "A1"
    if lemma in words.LINKING and not acts and _links(tree, predicate):
        return "A1"
    changes = lemma in words.CHANGES and not acts and not tree.children(predicate, *_CLAUSES)
    return "A1" if changes and tree.word(argument) not in words.AGENTS else "A0"


def _links(tree: Tree, predicate: int) -> bool:
    attribute = any(not tree.is_verb(child) for child in tree.children(predicate, "xcomp"))
    like = any(preposition(tree, child) == "like" for child in tree.children(predicate, "nmod"))
    return (attribute or like) and tree.lemma(predicate) != "feel"


def _object(tree: Tree, predicate: int, argument: int) -> str:
    if tree.word(argument) in words.ANYWHERE:
        return "AM-LOC"
    if not tree.is_verb(predicate):
        return "A2"
    clause = tree.children(predicate, *_CLAUSES)
    hearer = tree.lemma(predicate) in words.TELLING and (clause or tree.word(argument) in words.PRONOUNS)
    return "A2" if hearer else "A1"


def _dependent(tree: Tree, predicate: int, argument: int) -> str:
    """Return the role of a dependent of the predicate."""
    relation = tree.relations[argument]
    if relation in _SUBJECTS:
        return subject(tree, predicate, argument)
    if relation == "dobj":
        return _object(tree, predicate, argument)
    if relation == "iobj":
        return "A2"
    if relation in _CLAUSES:
        return "AC"
    return _phrase(tree, predicate, argument)


def _phrase(tree: Tree, predicate: int, argument: int) -> str:
    """Return the role of a phrase, a dependent of the predicate or of an adverb of it: away from home, a year ago."""
    relation, head = tree.relations[argument], tree.heads[argument]
    before = preposition(tree, argument)
    if relation == "nmod:tmod":
        return "AM-TMP"
    if relation == "nmod:poss":
        return "A2"
    if head != predicate and f"{tree.whole(head)} {before}" in words.PREPOSITIONS:
        before = f"{tree.whole(head)} {before}"
    return modifier(tree, predicate, before, argument, is_passive(tree, predicate))


def _shares(tree: Tree, predicate: int, first: int) -> bool:
    """Say whether a predicate may share the object of a verb that it is coordinated with: to buy and sell cars."""
    coordinated = tree.relations[predicate] == "conj" and tree.heads[predicate] == first
    return coordinated and tree.is_verb(predicate) and not tree.children(predicate, "dobj")


def _ancestor(tree: Tree, predicate: int, argument: int, clause: int) -> str:
    """Return the role of a word that a clause with the predicate modifies; ``clause`` is the head of the clause."""
    relation = tree.relations[clause]
    if relation not in ("acl", "acl:relcl"):
        return subject(tree, predicate, argument) if relation == "advcl" else "AM"
    rule = _relative if relation == "acl:relcl" else _adnominal
    if clause == predicate:
        return rule(tree, predicate, argument)
    between = {tree.relations[word] for word in tree.ancestors(predicate) if word not in tree.ancestors(clause)}
    if tree.lemma(clause) == "use" and relation == "acl":
        return "AM-MNR"  # the language used to write letters
    gap = [word for word in tree.children(clause, *_SUBJECTS) if tree.tags[word] not in _PRONOUNS]
    if (gap and "xcomp" in between) or (between == {"conj"} and rule(tree, clause, argument) not in ("A0", "A1")):
        return _gap(tree, predicate, argument)
    return subject(tree, predicate, argument)


def _relative(tree: Tree, predicate: int, argument: int) -> str:
    """Return the role of the noun of a relative clause: that of its pronoun, or else of its gap."""
    if tree.word(argument) in _ADVERBS:
        return _ADVERBS[tree.word(argument)]
    for child in tree.children(predicate):
        if tree.tags[child] not in _PRONOUNS or (tree.relations[child] == "mark" and tree.word(child) == "that"):
            continue
        if tree.word(child) in _ADVERBS:
            return _ADVERBS[tree.word(child)]
        if tree.relations[child] == "nmod":
            before = preposition(tree, child)
            return modifier(tree, predicate, before, argument, is_passive(tree, predicate))
        if tree.relations[child] in (*_SUBJECTS, "dobj", "iobj"):
            return _dependent(tree, predicate, child)
    return _gap(tree, predicate, argument)


def _gap(tree: Tree, predicate: int, argument: int) -> str:
    """Return the role of a noun in a clause that lacks a word: the subject, a preposition's or the object."""
    if not tree.children(predicate, *_SUBJECTS) and tree.tags[predicate] != "VB":
        return subject(tree, predicate, argument)
    for child in _stranded(tree, predicate):
        if tree.word(child) in words.PREPOSITIONS and tree.tags[child] in ("IN", "TO", "RP"):
            return modifier(tree, predicate, tree.word(child), argument, is_passive(tree, predicate))
    lemma, whole = tree.lemma(argument), tree.children(predicate, "dobj") or not tree.is_verb(predicate)
    if lemma in words.WAYS:
        return "AM-MNR"
    if lemma in words.REASONS:
        return "AM-CAU"
    if is_time(tree, argument, "") and (whole or tree.lemma(predicate) not in words.TIMES_AS_OBJECTS):
        return "AM-TMP"
    if lemma in words.PLACES and (whole or tree.lemma(predicate) in words.STAYING):
        return "AM-LOC"
    return "AM" if whole or tree.children(predicate, *_CLAUSES) else "A1"


def _stranded(tree: Tree, predicate: int) -> list[int]:
    """Return the words that may be prepositions without a noun: to live in, to stay away from."""
    adverbs = tree.children(predicate, "advmod")
    below = [child for adverb in adverbs for child in tree.children(adverb, "nmod", "case")]
    return [*tree.children(predicate, "nmod", "case", "dep"), *below, *adverbs]


def _adnominal(tree: Tree, predicate: int, argument: int) -> str:
    """Return the role of a noun in a participle ("cars made there"), an infinitive ("a place to eat") or "that"."""
    marks = [tree.word(child) for child in tree.children(predicate, "mark", "case")]
    own = tree.children(predicate, *_SUBJECTS)
    if tree.tags[predicate] == "VB" or "to" in marks:
        if not own and is_passive(tree, predicate):
            return "A1"
        if tree.lemma(argument) in words.CONTENTS or (set(marks) - {"to", "for"}):
            return "AM"
        found = _gap(tree, predicate, argument)
        return subject(tree, predicate, argument) if found == "AM" and not own else found
    if marks or own:
        return "AM"
    return "AM-TMP" if tree.lemma(argument) == "time" else subject(tree, predicate, argument)

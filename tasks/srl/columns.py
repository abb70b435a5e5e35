"""Which columns of CoNLL-2009 files are read, and whether the files of one problem belong together.

Of trees (HEAD with DEPREL), tags (POS) and lemmas (LEMMA) a file may hold what people said (gold) and what a parser or
tagger predicted (PHEAD with PDEPREL, PPOS, PLEMMA). All files of a problem are read alike: a model that learns from
predicted trees and is tested on gold ones, or that reads nothing but ``_``, gives a table that looks like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from attribench.base.errors import UserError

from .conll import COLUMNS, NOTHING, Sentence

Kind = Literal["gold", "predicted"]
Wanted = Literal["auto", "gold", "predicted"]


@dataclass(frozen=True)
class Columns:
    """What is read of every file of a problem: of trees, tags and lemmas each the gold columns or the predicted."""

    trees: Kind = "gold"
    tags: Kind = "gold"
    lemmas: Kind = "gold"

    def figures(self) -> dict[str, float]:
        """Return for each 1 where it is predicted, and 0 where it is gold."""
        return {f"predicted_{part}": float(kind == "predicted") for part, kind in asdict(self).items()}

    def __str__(self) -> str:
        return ", ".join(f"{kind} {part}" for part, kind in asdict(self).items())


GOLD = Columns()
_NAMES: dict[str, dict[Kind, tuple[str, ...]]] = {
    "trees": {"gold": ("HEAD", "DEPREL"), "predicted": ("PHEAD", "PDEPREL")},
    "tags": {"gold": ("POS",), "predicted": ("PPOS",)},
    "lemmas": {"gold": ("LEMMA",), "predicted": ("PLEMMA",)},
}
"""The columns of each kind; the first says whether a file has it."""
_MAY_LACK = ("POS", "PPOS", "LEMMA", "PLEMMA")
"""Columns that may hold ``_`` where the form is ``_``: an underscore, or a subject that is not spoken."""


def tree(sentence: Sentence, columns: Columns) -> tuple[list[int], list[str]]:
    """Return heads (from 1, 0 at a root) and relations."""
    if columns.trees == "gold":
        return sentence.head, sentence.deprel
    if sentence.phead is None:
        raise ValueError("expected a sentence with predicted heads; got one without: ask choose() for the columns")
    return sentence.phead, sentence.pdeprel


def tags(sentence: Sentence, columns: Columns) -> list[str]:
    """Return parts of speech."""
    return sentence.pos if columns.tags == "gold" else sentence.ppos


def lemmas(sentence: Sentence, columns: Columns) -> list[str]:
    """Return lemmas."""
    return sentence.lemma if columns.lemmas == "gold" else sentence.plemma


def choose(files: Mapping[Path, Sequence[Sentence]], wanted: Wanted) -> Columns:
    """Decide what is read of all files, of trees, tags and lemmas each.

    Args:
        files: their sentences with predicates; of others nothing is read.
        wanted: ``auto`` takes predicted columns where all files have them, and gold ones where none has.

    Raises:
        UserError: when some files have a predicted column and others do not (``auto``), or when a column that is read
            is not filled in a row, with its line.
    """
    return Columns(**{part.name: _kind(files, part.name, wanted) for part in fields(Columns)})


def _kind(files: Mapping[Path, Sequence[Sentence]], part: str, wanted: Wanted) -> Kind:
    gold, predicted = _NAMES[part]["gold"], _NAMES[part]["predicted"]
    if wanted == "predicted":
        rule = "in every row, since srl.columns=predicted asks for them"
        _check_filled(files, predicted, rule, "fill it, or set srl.columns to auto or gold")
        return "predicted"
    having = {path: sentences for path, sentences in files.items() if _has(sentences, predicted[0])}
    if wanted == "gold" or not having:
        advice = "fill it, with one value in all rows where there is nothing to say"
        if having:
            advice += ", or set srl.columns=auto"
        _check_filled(files, gold, f"in every row, since gold {part} are read", advice)
        return "gold"
    _check_filled(having, predicted, "in every row or in none", "fill it, or set srl.columns=gold")
    if lacking := [path for path in files if path not in having]:
        raise UserError(
            f"expected {' and '.join(predicted)} in every file or in none; {_listed(having)}: filled, "
            f"{_listed(lacking)}: nothing but _: fill them in every file, or set srl.columns=gold"
        )
    return "predicted"


def _listed(names: Iterable[object]) -> str:
    return " and ".join(map(str, names))


def _has(sentences: Sequence[Sentence], name: str) -> bool:
    """Say whether a column is filled in any row."""
    return any(not {NOTHING}.issuperset(getattr(s, name.lower()) or ()) for s in sentences)


def _check_filled(files: Mapping[Path, Sequence[Sentence]], names: Sequence[str], rule: str, advice: str) -> None:
    for path, sentences in files.items():
        for sentence in sentences:
            for name in names:
                if (row := _hole(sentence, name)) is not None:
                    where = f"{path}: line {sentence.line + row}, column {COLUMNS.index(name) + 1} ({name})"
                    raise UserError(f"expected {' and '.join(names)} {rule}; {where}: got _: {advice}")


def _hole(sentence: Sentence, name: str) -> int | None:
    """Return the first row, from 0, in which a column is not filled; None where there is none."""
    cells = getattr(sentence, name.lower())
    if cells is None:
        return 0
    if NOTHING not in cells:
        return None
    spoken = [form != NOTHING or name not in _MAY_LACK for form in sentence.form]
    return next((row for row, cell in enumerate(cells) if cell == NOTHING and spoken[row]), None)


def is_blind(sentences: Iterable[Sentence]) -> bool:
    """Say whether no predicate has an argument: every APRED is ``_``, as in a test set whose roles are held back."""
    return all({NOTHING}.issuperset(column) for sentence in sentences for column in sentence.roles)


def check_labels(
    files: Mapping[str, Path], splits: Mapping[str, Sequence[Sentence]], columns: Columns, blind: bool
) -> None:
    """Refuse files against which F1 is 0, or trees that say nothing, whatever the model.

    Args:
        files: of the splits, for messages.
        splits: sentences of ``train`` and the others.
        columns: that are read.
        blind: accept a test file without roles.

    Raises:
        UserError: when a file has predicates and no roles, or when none of its roles or of its relations is one of the
            training file's (another scheme of labels).
    """
    for name, sentences in splits.items():
        if is_blind(sentences) and not (blind and name == "test"):
            option = ", or set srl.blind=true to explain it all the same" if name == "test" else ""
            raise UserError(
                f"expected roles in the APRED columns; {files[name]}: all of them are _ though there are "
                f"{sum(len(s.predicates) for s in sentences)} predicates (a blind file): give a {name} file with "
                f"roles{option}"
            )
    roles = {
        name: {r for s in found for column in s.roles for r in column} - {NOTHING} for name, found in splits.items()
    }
    relations = {name: {r for s in found for r in tree(s, columns)[1]} for name, found in splits.items()}
    for what, labels in (("roles", roles), ("relations", relations)):
        for name, found in labels.items():
            if found and found.isdisjoint(labels["train"]):
                raise UserError(
                    f"expected {what} of {files['train']}; {files[name]}: none of its {len(found)}, such as "
                    f"{min(found)}, is one of them: use files with the same labels"
                )

"""The WikiHop format (Welbl et al. 2018): a JSON list of items, as in ``qangaroo_v1.1/wikihop/{train,dev}.json``.

An item is an object with ``id``, ``query`` (a relation in one word, a blank, the subject), ``candidates`` and
``supports`` (the documents), both lists of texts, and ``answer``, one of the candidates, which a test file lacks.

What is not such a list is refused: invalid JSON, a field that is missing or of a wrong type, an id that comes twice.
Items that are well formed and cannot be answered, say because the answer is not among the candidates, are left out,
counted and named (:class:`LeftOut`).

Other fields, such as ``annotations``, are ignored, but for ``gold``, which the bundled items have and readers of
WikiHop pass over: an object with

- ``kinds``: what every candidate is (country, city, capital ...), for baselines among candidates of one kind;
- ``chain``: the mentions that lead from the subject to the answer, each as document, first token and the token after
  the last, counted from 0 in :func:`.mentions.tokenize`'s tokens;
- ``edges``: the types of the edges between them, from each mention to the next: the edge at place k is that of layer k.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attribench.base.arrays import regular_size
from attribench.base.errors import UserError, printable

MAX_BYTES = 2**31
"""Of a file's text, unpacked."""
_NAMED = 3
"""How many of the items that are left out for one reason are named."""


@dataclass(frozen=True, slots=True)
class Gold:
    """The chain that answers an item, known where the item was made; the module's docstring says what is in it."""

    kinds: tuple[str, ...]
    chain: tuple[tuple[int, int, int], ...]
    edges: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A query, its candidates and the documents that answer it."""

    id: str
    query: str
    candidates: tuple[str, ...]
    supports: tuple[str, ...]
    answer: int | None
    """The place of the answer among the candidates; None in a test file."""
    gold: Gold | None = None

    @property
    def relation(self) -> str:
        """The query's first word, with blanks for underscores."""
        return self.query.split(" ", 1)[0].replace("_", " ")

    @property
    def subject(self) -> str:
        """The rest of the query."""
        return self.query.split(" ", 1)[1].strip()


@dataclass
class LeftOut:
    """Items that cannot be answered, by reason: their ids."""

    ids: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, item_id: str) -> None:
        """Leave an item out."""
        self.ids.setdefault(reason, []).append(item_id)

    def __len__(self) -> int:
        return sum(map(len, self.ids.values()))

    def report(self) -> str:
        """Return one line: every reason with its count and the first items' ids; empty where none is left out."""
        parts = []
        for reason, ids in self.ids.items():
            named = ", ".join(ids[:_NAMED]) + (", ..." if len(ids) > _NAMED else "")
            parts.append(f"{len(ids)} with {reason} ({printable(named)})")
        return "; ".join(parts)


def read_wikihop(path: Path) -> tuple[list[Item], LeftOut]:
    """Return the items of a file, in its order, and those that were left out; one that ends in ``.gz`` is unpacked.

    Raises:
        UserError: when it cannot be read or is not in the format, with the first place that is not, and when nothing
            remains.
    """
    found = load_json(path, "a WikiHop file (JSON)")
    if not isinstance(found, list):
        raise UserError(f"expected a list of items; {path}: got {_kind(found)}: check the file")
    left_out = LeftOut()
    blind = not any(isinstance(entry, dict) and "answer" in entry for entry in found)
    items = []
    seen: dict[str, int] = {}
    for place, entry in enumerate(found, 1):
        item, answer = _item(entry, f"{path}: item {place}")
        if item.id in seen:
            raise UserError(
                f"expected an id for each item; {path}: items {seen[item.id]} and {place} are both "
                f"{_shown(item.id)}: rename one"
            )
        seen[item.id] = place
        reason = _unanswerable(item, answer, blind)
        if reason:
            left_out.add(reason, item.id)
        else:
            items.append(_answered(item, answer))
    if not items:
        why = left_out.report() or "it is empty"
        raise UserError(f"expected at least one item that can be answered; {path}: {why}: check the file")
    return items, left_out


def write_wikihop(entries: Iterable[dict[str, Any]], path: Path) -> None:
    """Write items as :func:`read_wikihop` reads them, one a line, packed with gzip without name and time of day."""
    text = (
        "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False, separators=(",", ":")) for entry in entries) + "\n]\n"
    )
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=raw, mtime=0) as packed,
    ):
        packed.write(text.encode())


def load_json(path: Path, kind: str) -> Any:
    """Return what a JSON file holds; one that ends in ``.gz`` is unpacked.

    Args:
        path: of the file.
        kind: what is expected, for messages.

    Raises:
        UserError: when it is no regular file, too large, or no JSON.
    """
    try:
        regular_size(path)
        with path.open("rb") as raw:
            file: Any = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(f"expected {kind} of at most {MAX_BYTES} bytes; {path} holds more: split the file")
        return json.loads(content)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"expected {kind}; {path}: {reason}: check the path and the file") from error


def _item(entry: Any, where: str) -> tuple[Item, str | None]:
    """Return an entry as an item without its answer, and the answer."""
    if not isinstance(entry, dict):
        raise UserError(f"expected an object; {where}: got {_kind(entry)}: mend the item")
    name = _text(entry, "id", where)
    where = f"{where} ({_shown(name)})"
    query = _text(entry, "query", where)
    if not query.partition(" ")[2].strip() or query.startswith(" "):
        raise UserError(
            f"expected a relation, a blank and a subject; {where}, query: got {_shown(query)}: mend the item"
        )
    candidates, supports = _texts(entry, "candidates", where), _texts(entry, "supports", where)
    answer = _text(entry, "answer", where) if "answer" in entry else None
    gold = _gold(entry["gold"], len(candidates), len(supports), where) if "gold" in entry else None
    item = Item(id=name, query=query, candidates=candidates, supports=supports, answer=None, gold=gold)
    return item, answer


def _answered(item: Item, answer: str | None) -> Item:
    return replace(item, answer=None if answer is None else item.candidates.index(answer))


def _unanswerable(item: Item, answer: str | None, blind: bool) -> str | None:
    """Return why an item cannot be answered, if so."""
    if not any(text.strip() for text in item.supports):
        return "no supports"
    if not item.candidates:
        return "no candidates"
    if any(not candidate.strip() for candidate in item.candidates):
        return "an empty candidate"
    if len(set(item.candidates)) < len(item.candidates):
        return "a candidate that comes twice"
    if blind:
        return None
    if answer is None:
        return "no answer, where others have one"
    return None if answer in item.candidates else "an answer that is not among the candidates"


def _text(entry: dict[str, Any], name: str, where: str) -> str:
    if name not in entry:
        raise UserError(f"expected the field {name!r}; {where}: it is missing: mend the item")
    return _checked(entry[name], f"{where}, {name}")


def _texts(entry: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
    if not isinstance(entry.get(name), list):
        got = _kind(entry[name]) if name in entry else "nothing"
        raise UserError(f"expected a list of texts; {where}, {name}: got {got}: mend the item")
    return tuple(_checked(value, f"{where}, {name} {place}") for place, value in enumerate(entry[name], 1))


def _checked(value: Any, where: str) -> str:
    """Return a text that can be written as UTF-8."""
    if not isinstance(value, str):
        raise UserError(f"expected a text; {where}: got {_kind(value)}: mend the item")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"expected characters; {where}: half of a surrogate pair: mend the item") from error
    return value


def _gold(value: Any, candidates: int, documents: int, where: str) -> Gold:
    where = f"{where}, gold"
    if not isinstance(value, dict):
        raise UserError(f"expected an object; {where}: got {_kind(value)}: mend the item or remove it")
    kinds, edges = (_texts(value, name, where) for name in ("kinds", "edges"))
    chain = value.get("chain")
    if not isinstance(chain, list) or not all(map(_is_span, chain)) or any(span[0] >= documents for span in chain):
        raise UserError(
            f"expected document, first token and the token after the last of every mention; {where}, chain: "
            f"got {_shown(str(chain))}: mend the item"
        )
    if len(kinds) != candidates or len(edges) != max(0, len(chain) - 1):
        raise UserError(
            f"expected {candidates} kinds, and an edge between neighbours of the chain; {where}: got {len(kinds)} "
            f"kinds, {len(chain)} mentions and {len(edges)} edges: mend the item"
        )
    return Gold(kinds, tuple((span[0], span[1], span[2]) for span in chain), edges)


def _is_span(value: Any) -> bool:
    return is_numbers(value, 3) and value[0] >= 0 and 0 <= value[1] < value[2]


def is_numbers(value: Any, size: int) -> bool:
    """Say whether a value of JSON is a list of so many whole numbers."""
    return isinstance(value, list) and len(value) == size and all(type(number) is int for number in value)


def _kind(value: Any) -> str:
    names: Sequence[tuple[type, str]] = (
        (bool, "a truth value"),
        (str, "a text"),
        (int, "a number"),
        (float, "a number"),
        (list, "a list"),
        (dict, "an object"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), "null")


def _shown(text: str) -> str:
    return repr(printable(text[:60]))

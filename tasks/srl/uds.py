"""Rebuilds the bundled data from Universal Decompositional Semantics 2.0 (White et al. 2020).

``python -m attribench.tasks.srl.uds WHEEL OUT``, with the wheel from ``pip download decomp==0.3.2 --no-deps
--python-version 3.12 --only-binary=:all:``. It is read, not installed: each split is one JSON member of up to 221 MB
and is taken apart sentence by sentence.

Predicates are those with arguments, and arguments those that UDS drew from the tree with PredPatt; the roles are
:mod:`.roles`'. In the CoNLL-2009 columns:

- POS, HEAD and DEPREL are the gold tags and trees of the English Web Treebank (Universal Dependencies 1, Penn tags).
- PLEMMA, PPOS, PHEAD and PDEPREL, the predicted ones, are ``_``: nothing was predicted. FEAT and PFEAT are ``_``.
- PRED is the lemma and ``.01`` for every predicate: UDS has no senses.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attribench.base.errors import UserError

from .conll import NOTHING, Sentence, write_conll
from .modifiers import prepositions
from .role_words import PREPOSITIONS
from .roles import is_bare_passive, is_expletive, role
from .trees import Tree

SPLITS = ("train", "dev", "test")
_MEMBER = "decomp/data/2.0/normalized/sentence/uds-ewt-sentences-{}-normalized.json"
_CHUNK = 2**20
_SEPARATORS = " \t\r\n,:"


def read_graphs(wheel: Path, split: str) -> Iterator[dict[str, Any]]:
    """Yield the graphs of a split, as UDS has them, one after the other.

    Raises:
        UserError: when the file is not that wheel.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER.format(split)) as member:
            yield from _graphs(io.TextIOWrapper(member, encoding="utf-8"))
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"expected the wheel of decomp 0.3.2; {wheel}: {error}: check the path") from error


def _graphs(text: io.TextIOWrapper) -> Iterator[dict[str, Any]]:
    """Yield the values of the object "data" in an object."""
    values = _Values(text)
    values.enter()
    while values.take() != "data":
        values.take()
    values.enter()
    while values.peek() != "}":
        values.take()  # the sentence's name
        yield values.take()


class _Values:
    """The keys and values of JSON objects, one after the other, from as much of the text as each takes."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self.text, self.buffer, self.decoder = text, "", json.JSONDecoder()

    def peek(self) -> str:
        """Return the next character that parts no values."""
        while not (rest := self.buffer.lstrip(_SEPARATORS)):
            self._read()
        self.buffer = rest
        return rest[0]

    def enter(self) -> None:
        """Step into an object."""
        if self.peek() != "{":
            raise ValueError("not the JSON that it should be")
        self.buffer = self.buffer[1:]

    def take(self) -> Any:
        """Return the next string or object."""
        self.peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.buffer)
            except json.JSONDecodeError:
                self._read()
                continue
            self.buffer = self.buffer[end:]
            return value

    def _read(self) -> None:
        chunk = self.text.read(_CHUNK)
        if not chunk:
            raise ValueError("its JSON ends early")
        self.buffer += chunk


def convert(graph: dict[str, Any], counts: Counter[str]) -> Sentence:
    """Return the sentence of a UDS graph; count what it holds, and where mended rules had a part."""
    tree, pairs = _read(graph)
    size = len(tree.forms)
    roles = {predicate: [NOTHING] * size for predicate in sorted(pairs)}
    for predicate, arguments in pairs.items():
        for argument in arguments:
            name = role(tree, predicate, argument)
            roles[predicate][argument] = name
            counts.update(["pairs", f"role {name}", *mended(tree, predicate, argument, name)])
    counts.update({"sentences": 1, "tokens": size, "predicates": len(roles)})
    nothing = [NOTHING] * size
    return Sentence(
        form=tree.forms,
        lemma=tree.lemmas,
        plemma=nothing,
        pos=tree.tags,
        ppos=nothing,
        feat=nothing,
        pfeat=nothing,
        head=[head + 1 for head in tree.heads],
        phead=None,
        deprel=tree.relations,
        pdeprel=nothing,
        predicates=list(roles),
        pred=[f"{tree.lemmas[predicate]}.01" for predicate in roles],
        roles=list(roles.values()),
    )


def _read(graph: dict[str, Any]) -> tuple[Tree, dict[int, list[int]]]:
    """Return a graph's tree and, for every predicate, its arguments; all positions count from 0."""
    tokens = sorted((node for node in graph["nodes"] if node["type"] == "token"), key=lambda node: node["position"])
    heads, relations = [-1] * len(tokens), [""] * len(tokens)
    pairs: dict[int, list[int]] = defaultdict(list)
    for node, edges in zip(graph["nodes"], graph["adjacency"], strict=True):
        for edge in edges:
            if edge["type"] != "dependency" or edge["domain"] == "interface":
                continue
            source, target = _position(node["id"]), _position(edge["id"])
            if edge["domain"] == "syntax":
                heads[target], relations[target] = source, edge["deprel"]
            elif edge.get("frompredpatt"):
                pairs[source].append(target)
    tree = Tree(
        [token["form"] for token in tokens],
        [token["lemma"] for token in tokens],
        [token["xpos"] for token in tokens],
        heads,
        relations,
    )
    return tree, pairs


def _position(node: str) -> int:
    """Return the position in a node's name: that of ewt-dev-6-semantics-arg-2 is 1; -1 for a root."""
    number = node.rpartition("-")[2]
    return int(number) - 1 if number.isdecimal() else -1


def mended(tree: Tree, predicate: int, argument: int, name: str) -> list[str]:
    """Return which mistakes of the scheme that was tried first concern this pair.

    There, subjects of "there is" were agents; participles without an auxiliary counted as active, except behind their
    noun; a place's preposition made places of dates; and of several prepositions the first decided.
    """
    relation, found = tree.relations[argument], []
    if relation == "nsubj" and tree.heads[argument] == predicate and is_expletive(tree, predicate):
        found.append("mended: subject of there is")
    if tree.relations[predicate] not in ("acl", "acl:relcl") and is_bare_passive(tree, predicate):
        found.append("mended: passive without auxiliary")
    if relation == "nmod":
        cases, chosen = prepositions(tree, argument)
        if name == "AM-TMP" and PREPOSITIONS.get(chosen) == "AM-LOC":
            found.append("mended: time after a place's preposition")
        if len(cases) > 1 and chosen != cases[0]:
            found.append("mended: not the first preposition")
    return found


def build(wheel: Path, out: Path) -> dict[str, Counter[str]]:
    """Write the three files into a folder; return the counts of each."""
    out.mkdir(parents=True, exist_ok=True)
    counts = {split: Counter[str]() for split in SPLITS}
    for split in SPLITS:
        sentences = (convert(graph, counts[split]) for graph in read_graphs(wheel, split))
        write_conll(sentences, out / f"{split}.conll09.gz")
    return counts


def report(counts: dict[str, Counter[str]]) -> str:
    """Return the counts as a table."""
    total = Counter[str]()
    for count in counts.values():
        total += count
    names = ["sentences", "tokens", "predicates", "pairs"]
    names += sorted((name for name in total if name not in names), key=lambda name: (name.split()[0], -total[name]))
    lines = [f"{'':42}" + "".join(f"{split:>9}" for split in counts)]
    lines += [f"{name:42}" + "".join(f"{count[name]:>9}" for count in counts.values()) for name in names]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description="Rebuild the bundled data from the wheel of decomp 0.3.2.")
    parser.add_argument("wheel", type=Path, help="decomp-0.3.2-py3-none-any.whl")
    parser.add_argument("out", type=Path, help="folder for train, dev and test")
    arguments = parser.parse_args()
    try:
        sys.stdout.write(report(build(arguments.wheel, arguments.out)))
    except UserError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()

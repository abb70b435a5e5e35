"""What a Python source says: a hash of its syntax tree without docstrings, what it imports, and the files it names.

It is a function of the text alone, so it is noted by the text's hash: to parse the whole harness takes half a second,
which every command and every worker would spend anew.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .notes import read_note, write_note

LONGEST_NAME = 200
"""Characters of a text that may name a file; file systems refuse to be asked for much longer ones."""

MOST_NOTED = 500
"""Sources whose notes are kept: several times those of the harness."""

_NOTE = "sources"


@dataclass(frozen=True)
class Source:
    """What a source says.

    Args:
        digest: of the syntax tree without docstrings; of the bytes where they are no Python of this version.
        imports: ``[level, module, name]`` of every import that is executed, level 0 and no name for ``import module``.
        named: modules imported by their names, ``import_module("name")``; "" where the name is no constant.
        files: text constants that may name a Python file.
    """

    digest: str
    imports: list[list[Any]]
    named: list[str]
    files: list[str]


def source_of(content: bytes) -> Source:
    """Return what a source says, parsed or as it was noted when it was."""
    key = hashlib.sha256(_version() + content).hexdigest()
    if key not in _known():
        _known()[key] = asdict(parse(content))
        _new.add(key)
    return Source(**_known()[key])


def note_sources() -> None:
    """Keep what was parsed by this process for the next one."""
    if _new:
        noted = {**_noted(), **{key: _known()[key] for key in _new}}  # with what others have noted meanwhile
        write_note(_NOTE, dict(list(noted.items())[-MOST_NOTED:]))
        _new.clear()


def parse(content: bytes) -> Source:
    """Return what a source says."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # a file beside a plugin that is named and is no Python of this version
        return Source(hashlib.sha256(content).hexdigest(), [], [], [])
    imports: dict[tuple[int, str, str], None] = {}
    named: dict[str, None] = {}
    for node in _executed(tree):
        if isinstance(node, ast.Call) and node.args and _is_import_call(node.func):
            first = node.args[0]
            named[first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""] = None
        elif isinstance(node, ast.Import):
            imports |= dict.fromkeys((0, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imports |= dict.fromkeys((node.level, node.module or "", alias.name) for alias in node.names)
    files = dict.fromkeys(_names_of_files(tree))
    digest = hashlib.sha256(ast.dump(_without_docstrings(tree)).encode(errors="surrogatepass")).hexdigest()
    return Source(digest, [list(each) for each in imports], list(named), list(files))


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree without those under ``if TYPE_CHECKING``."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and (
            getattr(node.test, "id", "") == "TYPE_CHECKING" or getattr(node.test, "attr", "") == "TYPE_CHECKING"
        ):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _is_import_call(function: ast.AST) -> bool:
    """Say whether this is ``import_module``, by whatever path, or ``__import__``."""
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__")


def _names_of_files(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if text.endswith(".py") and len(text) < LONGEST_NAME and text.isprintable():
            yield text


def _without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
    return tree


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


_new: set[str] = set()
"""Keys of what this process has parsed and not noted yet."""


@cache
def _known() -> dict[str, Any]:
    return _noted()


def _noted() -> dict[str, Any]:
    noted = read_note(_NOTE)
    return dict(noted) if isinstance(noted, dict) else {}


@cache
def _version() -> bytes:
    """Return what decides besides the text: Python, and the code of this file."""
    return hashlib.sha256(sys.version.encode() + Path(__file__).read_bytes()).digest()

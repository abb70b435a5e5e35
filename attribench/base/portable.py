"""The code that decides a result, whatever the machine: without versions of packages, and alike for every Python.

It stands apart from :mod:`~attribench.base.closure`, which plugins reach through their registry: what is in there is
part of every key, and to add to it would run every cell anew.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from .closure import _installed, _read, _source
from .errors import UserError
from .source import _without_docstrings


@cache
def portable_digest(*roots: str) -> str:
    """Return a hash of the harness's and plugins' own code that imports reach from some modules.

    Raises:
        UserError: when a root cannot be found.
    """
    code: set[str] = set()
    seen: set[str | Path] = set()
    waiting: list[str | Path] = list(roots)
    while waiting:
        item = waiting.pop()
        path = item if isinstance(item, Path) else _source(item)
        if path is None and item in roots:
            raise UserError(
                f"expected the source of module {item!r}; Python cannot find it: give its file with --plugin"
            )
        if item in seen or path is None or (item not in roots and _installed(path, str(item)) is not None):
            continue
        seen.add(item)
        code.add(f"{path.name} {_digest(path)}")  # with its name, as in a key
        waiting += _read(path, None if isinstance(item, Path) else item)[1]
    return hashlib.sha256("\n".join(sorted(code)).encode()).hexdigest()[:32]


@cache
def _digest(path: Path) -> str:
    """Return a hash of a file's syntax tree without docstrings; of its bytes where it is no Python."""
    content = path.read_bytes()
    if path.suffix == ".py":
        with contextlib.suppress(SyntaxError, ValueError):
            content = _dump(_without_docstrings(ast.parse(content))).encode()
    return hashlib.sha256(content).hexdigest()


def _dump(node: Any) -> str:
    """Return what a tree says. Versions of Python differ in which fields without a value they have: none is told."""
    if isinstance(node, list):
        return f"[{', '.join(map(_dump, node))}]"
    if not isinstance(node, ast.AST):
        return ascii(node)  # what repr shows of other characters is a matter of the version, too
    fields = (f"{name}={_dump(value)}" for name, value in ast.iter_fields(node) if value is not None and value != [])
    return f"{type(node).__name__}({', '.join(fields)})"

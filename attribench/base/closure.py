"""The code that decides a result: all that imports reach from where it starts, without comments and docstrings.

Code of the user's and of the harness counts by its syntax tree, installed packages by their version, the standard
library by Python's. Imports inside functions count; those for type checkers alone do not, nothing is run for them. A
plugin may also load a file beside it by name (``spec_from_file_location``): a text constant that names one counts.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .errors import UserError
from .packages import distributions_of
from .source import Source, note_sources, source_of

FACE = __name__.partition(".")[0]
"""The package whose names are imported from the modules that define them."""


@cache
def code_digest(*roots: str) -> str:
    """Return a hash of what imports reach from some modules, the same wherever the files lie.

    Raises:
        UserError: when a root cannot be found: a module that was loaded under a name that Python does not know.
    """
    code: set[str] = set()
    seen: set[str | Path] = set()
    waiting: list[str | Path] = list(roots)
    while waiting:
        item = waiting.pop()
        if item in seen:
            continue
        seen.add(item)
        path = item if isinstance(item, Path) else _source(item)
        if path is None:
            if item in roots:
                raise UserError(
                    f"expected the source of module {item!r}; Python cannot find it: give its file with --plugin, or "
                    "enter it in sys.modules when you load it"
                )
            continue
        installed = _installed(path, str(item)) if item not in roots else None
        if installed is not None:
            code.add(installed)
            continue
        text, reached = _read(path, None if isinstance(item, Path) else str(item))
        code.add(f"{path.name} {text}")  # with its name: files that exchange their contents are an edit, too
        waiting += reached
    note_sources()
    return hashlib.sha256("\n".join(sorted(code)).encode()).hexdigest()[:32]


@cache
def modules_reached(*roots: str) -> frozenset[str]:
    """Return the names of the harness's and plugins' modules whose code is part of :func:`code_digest`."""
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name in seen or path is None or (name not in roots and _installed(path, name) is not None):
            continue
        seen.add(name)
        waiting += [item for item in _read(path, name)[1] if isinstance(item, str)]
    return frozenset(seen)


def plugin_modules(plugin: type[object]) -> tuple[str, ...]:
    """Return the modules of a class and of those that it derives from."""
    modules = (base.__module__ for base in plugin.__mro__)
    return tuple(dict.fromkeys(name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names))


def _source(name: str) -> Path | None:
    """Return the file of a module; None for what has none or is the standard library's.

    Of an installed package it is the package's: its version counts, and to look for more would import the package.
    """
    package = name.partition(".")[0]
    if package in sys.stdlib_module_names:
        return None
    if package not in (name, FACE):
        whole = _source(package)
        if whole is not None and _installed(whole, package) is not None:
            return whole
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None and name not in sys.modules:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError):
            return None
        file = spec.origin if spec is not None and spec.has_location else None
    return Path(file) if file is not None else None


@cache
def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(dict.fromkeys(str(Path(paths[kind]).resolve()) for kind in ("purelib", "platlib", "stdlib")))


@cache
def _installed(path: Path, name: str) -> str | None:
    """Return distribution and version of an installed module that is none of the harness's, None for other code."""
    package = name.partition(".")[0]
    resolved = str(path.resolve())
    below = any(resolved.startswith(folder) for folder in _installed_folders())
    if package == FACE or not (below or {"site-packages", "dist-packages"} & set(path.parts)):
        return None
    return distributions_of(package)


@cache
def _read(path: Path, name: str | None) -> tuple[str, tuple[str | Path, ...]]:
    """Return a hash of a file's syntax tree, and the modules and files that it reaches."""
    content = path.read_bytes()
    if path.suffix != ".py":  # compiled: by its bytes
        return hashlib.sha256(content).hexdigest(), ()
    source = source_of(content)
    package = None if name is None else (name if path.name == "__init__.py" else name.rpartition(".")[0])
    reached: dict[str | Path, None] = dict.fromkeys(_imports(source, package or ""))
    reached |= dict.fromkeys(_files_beside(source, path, name))
    return source.digest, tuple(reached)


def _imports(source: Source, package: str) -> Iterator[str]:
    """Yield the names of the modules that a module imports, and of the packages around them."""
    for name in source.named:
        if name.partition(".")[0] not in ("", FACE):  # what the harness loads by name is no part of a result
            yield from _with_parents(name)
    for level, module, name in source.imports:
        if not (level or name):
            yield from _exports().values() if module == FACE else _with_parents(module)
            continue
        parts = package.split(".")
        around = ".".join(parts[: len(parts) - level + 1]) if level else ""
        yield from _imported(".".join(part for part in (around, module) if part), name)


def _imported(base: str, name: str) -> Iterator[str]:
    """Yield what ``from base import name`` reaches: a module called so, or the one that defines the name."""
    if base == FACE and name in _exports():
        yield _exports()[name]
        return
    yield from _with_parents(base)
    if base.partition(".")[0] in sys.stdlib_module_names:
        return
    path = _source(base)
    if (path is None or _installed(path, base) is None) and _source(f"{base}.{name}") is not None:
        yield f"{base}.{name}"


def _with_parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    names = (".".join(parts[: i + 1]) for i in range(len(parts)))
    yield from (other for other in names if other != FACE)


@cache
def _exports() -> dict[str, str]:
    """Return the module that defines each name of the harness's face."""
    exports: dict[str, str] = importlib.import_module(FACE)._exports()  # by name: it is no import of all of them
    return exports


def _files_beside(source: Source, path: Path, name: str | None) -> Iterator[Path]:
    """Yield Python files beside a plugin's file that it names in a text constant; the harness loads none so."""
    if name is not None and name.partition(".")[0] == FACE:
        return
    for text in source.files:
        file = path.parent / text
        if file.is_file() and file.resolve() != path.resolve():
            yield file

"""Names to plugins: built-in files, entry points, and files or modules that the user names."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Generic, TypeVar

from ..base.closure import modules_reached
from ..base.errors import UserError, raised_at
from ..base.names import base_name, split_names
from ..base.reading import files_read, unwatched
from ..base.seeds import derive
from . import given
from .method import Method
from .task import Task

T = TypeVar("T", bound=Method | Task)


class Registry(Generic[T]):
    """Plugins of one kind by name; the built-in ones are imported at the first look-up.

    Args:
        kind: what the entries are called in messages.
        group: the entry-point group, which is also the package of the built-in plugins.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, type[T]] = {}
        self._discovered = False

    def register(self, plugin: type[T]) -> type[T]:
        """Add a class under its ``name`` (a decorator).

        Raises:
            UserError: when another class has that name, or the name could not be typed on the command line.
        """
        name = plugin.name
        if not name.replace("-", "").replace("_", "").isalnum() or name == "all":
            raise UserError(f"expected a {self.kind} name of letters, digits, - and _; got {name!r}: rename it")
        other = self._entries.setdefault(name, plugin)
        if (other.__module__, other.__qualname__) != (plugin.__module__, plugin.__qualname__):
            raise UserError(
                f"expected one {self.kind} named {name!r}; got {other.__module__}.{other.__qualname__} and "
                f"{plugin.__module__}.{plugin.__qualname__}: rename one of them"
            )
        return plugin

    @contextmanager
    def holding(self, plugin: type[T]) -> Iterator[None]:
        """Have a class under its name for a while, in place of a given one that is called so.

        Raises:
            UserError: as for :meth:`register`.
        """
        before = self._entries.get(plugin.name)
        if before is not None and before.__module__ == plugin.__module__ == given.__name__:
            del self._entries[plugin.name]
        self._discover()
        self.register(plugin)
        try:
            yield
        finally:
            self._entries.pop(plugin.name)
            if before is not None:
                self._entries[plugin.name] = before

    def __getitem__(self, name: str) -> type[T]:
        """Return the class called ``name``, or the one of a variant such as ``gnnexplainer[steps=100]``.

        Raises:
            UserError: for an unknown name, with the nearest ones.
        """
        self._discover()
        name = base_name(name)
        if name in self._entries:
            return self._entries[name]
        near = difflib.get_close_matches(name, self._entries, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"expected a {self.kind} among {', '.join(self)}; got {name!r}.{hint}")

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._entries))

    def resolve(self, names: list[str]) -> list[str]:
        """Expand names given one by one, comma-separated or as ``all``; the order given, without repetitions.

        A name may carry options in brackets, which make it a variant with rows of its own.
        """
        split = [name for given in names for name in split_names(given)]
        expanded = [name for given in split for name in (list(self) if given == "all" else [given])]
        for name in expanded:
            self[name]
        if not expanded:
            raise UserError(f"expected at least one {self.kind} among {', '.join(self)}, or 'all'; got none")
        return list(dict.fromkeys(expanded))

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        with unwatched() as watched:  # a plugin may be the first to ask, and has not read what is read here
            package = importlib.import_module(self.group)
            for module in pkgutil.iter_modules(package.__path__):
                if not module.name.startswith("_"):
                    importlib.import_module(f"{self.group}.{module.name}")
            for entry in entry_points(group=self.group):
                with watched(), _noted():
                    self.register(entry.load())


METHODS: Registry[Method] = Registry("method", "attribench.methods")
TASKS: Registry[Task] = Registry("task", "attribench.tasks")


_READ: dict[str, set[str]] = {}
"""The files that were read while a plugin's module was imported; what is in them decides results as code does."""


def read_while_imported(*modules: str) -> dict[str, Path]:
    """Return the files that were read while these modules, and those that they reach, were imported."""
    paths = (path for module in modules_reached(*modules) for path in _READ.get(module, ()))
    return {path: Path(path) for path in sorted(paths)}


@contextmanager
def _noted() -> Iterator[None]:
    """Note what is read."""
    with files_read() as read:
        yield
    for path, modules in read.items():
        for module in modules:
            _READ.setdefault(module, set()).add(path)


def load_plugin(source: str) -> None:
    """Import a plugin from a Python file or by module name, or a given model; it registers what it defines.

    Raises:
        UserError: when there is no such file or module, or it fails to import.
    """
    path = Path(source)
    try:
        if path.suffix == given.SUFFIX:
            TASKS.register(given.Given.load(path).task())
        elif path.suffix == ".py":
            name = f"attribench_plugin_{path.stem}_{derive(str(path.resolve())):x}"
            spec = importlib.util.spec_from_file_location(name, path)
            if spec is None or spec.loader is None or not path.is_file():
                raise UserError(f"expected a plugin file; found none at {source!r}: check the path")
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            with _noted():
                spec.loader.exec_module(module)
        else:
            with _noted():
                importlib.import_module(source)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {error} (at {raised_at(error)})"
        beside = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if beside and (path.parent / f"{beside}.py").is_file():
            what += f"; it lies beside the plugin: put {str(path.parent)!r} on PYTHONPATH"
        raise UserError(f"expected an importable plugin; {source!r} raised {what}") from error

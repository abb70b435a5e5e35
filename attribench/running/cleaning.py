"""What results folders and the cache of trained models hold that no current plan uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.pieces import Piece
from ..plugins.given import FOLDER, SUFFIX
from ..storing.cells import CellStore, is_key
from ..storing.models import ModelCache
from ..storing.runs import NAME, read_entries
from ..storing.stored_problem import problem_key
from .folder import known_part
from .keys import Keys


def unused(folders: list[Path], data_dir: str | None, cache: ModelCache | None) -> list[Path]:
    """Return the folders of cells, problems and trained models that no plan of these results folders uses today.

    Cells of other code or configurations are unused; those of runs whose plugins are not named are kept. Files of given
    models are unused where no run of their folder was made with them.

    Args:
        folders: results folders.
        data_dir: folder of data of their runs.
        cache: trained models, where unused ones of these are wanted, too.

    Raises:
        UserError: when one is no results folder, or when models are asked for and a run's plugins are not named, so
            that it is not known which it uses.
    """
    found: list[Path] = []
    models: set[str] = set()
    for folder in folders:
        store, used = CellStore(folder), set[str]()
        given = set[str]()
        for entry in read_entries(folder / NAME):
            plan, unknown = known_part(entry, {data_dir or ""})
            given |= _names(entry.plan.get("plugins"))
            if plan is not None:
                keys = Keys(plan)
                pieces: list[Piece] = [*plan.cells(), *plan.problems()]
                used |= {keys[piece] for piece in pieces}
                models |= {keys.model(spec) for spec in plan.problems()}
            if unknown:
                records = {key: store.record(key) for key in entry.keys}
                used |= {x for key, r in records.items() if r is not None for x in (key, problem_key(r.content))}
                if cache is not None:
                    raise UserError(
                        f"expected all plugins of the runs in {folder} by name, to know which models they use: give "
                        "each with --plugin (and --data-dir), or leave --models out"
                    )
        found += _others(store.cells, used)
        found += sorted(path for path in (folder / FOLDER).glob(f"*{SUFFIX}") if path.name not in given)
    return found + ([] if cache is None else _others(cache.folder, models))


def _names(plugins: Any) -> set[str]:
    """Return the names of files among plugins that a stranger's ``run.json`` may list."""
    return {Path(source).name for source in plugins if isinstance(source, str)} if isinstance(plugins, list) else set()


def _others(folder: Path, used: set[str]) -> list[Path]:
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in there if path.is_dir() and is_key(path.name) and path.name not in used]

"""What results folders and the cache of trained models hold that no current plan uses."""

from __future__ import annotations

from pathlib import Path

from ..base.errors import UserError
from ..base.pieces import Piece
from ..storing.cells import CellStore, is_key
from ..storing.models import ModelCache
from ..storing.runs import NAME, read_entries
from ..storing.stored_problem import problem_key
from .folder import known_part
from .keys import Keys


def unused(folders: list[Path], data_dir: str | None, cache: ModelCache | None) -> list[Path]:
    """Return the folders of cells, problems and trained models that no plan of these results folders uses today.

    Cells of other code or configurations are unused; those of runs whose plugins are not named are kept.

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
        for entry in read_entries(folder / NAME):
            plan, unknown = known_part(entry, {data_dir or ""})
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
    return found + ([] if cache is None else _others(cache.folder, models))


def _others(folder: Path, used: set[str]) -> list[Path]:
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in there if path.is_dir() and is_key(path.name) and path.name not in used]

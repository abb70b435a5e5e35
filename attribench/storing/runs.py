"""What a results folder says of the runs that were made in it: ``run.json``, a list of plans with where they ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..base.arrays import DamagedError
from ..base.errors import UserError
from ..base.files import read_json
from .cells import is_key

NAME = "run.json"
SCHEMA = 2
"""Of results folders; it rises when what is in them can no longer be read."""


class Entry(BaseModel):
    """What is kept of one run.

    Args:
        plan: as a dict; plugins that it names may not be there.
        cells: the keys of its cells, as the file says.
        about: what its tasks say of themselves.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    plan: dict[str, Any]
    cells: Any
    about: dict[str, dict[str, Any]] = {}

    @property
    def keys(self) -> list[str]:
        """The keys of its cells."""
        return [key for key in self.cells if is_key(key)] if isinstance(self.cells, list) else []


def read_entries(path: Path) -> list[Entry]:
    """Return the runs of a ``run.json``, the last one last.

    Raises:
        UserError: when an earlier version wrote it.
        DamagedError: when it is anything else.
    """
    content = read_json(path)
    of_another = isinstance(content, dict) and (content.keys() & {"plan", "runs"}) and content.get("schema") != SCHEMA
    if of_another and isinstance(content.get("schema", 0), int):
        raise UserError(f"expected a folder of schema {SCHEMA}; an earlier version wrote {path}: choose another --out")
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or not isinstance(content.get("runs"), list):
        raise DamagedError(f"{path}: no list of runs of schema {SCHEMA} in it")
    try:
        return [Entry.model_validate(entry) for entry in content["runs"]]
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise DamagedError(f"{path}: {where}: {error.errors()[0]['msg']}") from error

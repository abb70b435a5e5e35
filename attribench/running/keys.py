"""What decides the result of a piece, and the key that it is stored under: a hash of all of it.

Three things decide: what trains a model, what makes attributions of it, and what scores them. So a change of a scorer
trains nothing again. A key is made once per piece and process.

A key is of one machine: device, threads and versions decide, too. What tables that are kept say of their rows is the
part of it that is the same everywhere, :meth:`Keys.code`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..base.closure import code_digest, plugin_modules
from ..base.files import digest
from ..base.pieces import Cell, Piece, ProblemSpec
from ..base.portable import portable_digest
from ..base.reading import checksums
from ..plugins.configs import as_dict
from ..plugins.method import Method
from ..plugins.registry import METHODS, TASKS, read_while_imported
from ..plugins.task import Task
from ..scoring.scorers import scorer_modules
from .plan import Plan
from .provenance import device_name, library_versions


class Keys:
    """The keys of a plan's pieces.

    Args:
        plan: of the run.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._configs = plan.configs()
        self._contents: dict[Piece, dict[str, Any]] = {}
        self._keys: dict[Piece, str] = {}
        self._data: dict[str, dict[str, str]] = {}

    def problem_content(self, spec: ProblemSpec) -> dict[str, Any]:
        """Return what decides a problem."""
        if spec not in self._contents:
            kind = TASKS[spec.task]
            self._contents[spec] = {
                "task": spec.task,
                "task_config": as_dict(self._configs[spec.task]),
                "code": code_digest("attribench.plugins.task", *plugin_modules(kind)),
                "data": self._checksums(spec.task, kind),
                "data_seed": spec.data_seed,
                "model_seed": spec.model_seed,
                "versions": library_versions(),
                "device": device_name(self._plan.device),
                "dtype": str(torch.get_default_dtype()),
                "threads": self._plan.threads,
            }
        return self._contents[spec]

    def cell_content(self, cell: Cell) -> dict[str, Any]:
        """Return what decides a cell's attributions."""
        if cell not in self._contents:
            kind = METHODS[cell.method]
            self._contents[cell] = {
                **self.problem_content(cell.problem),
                "method": cell.method,
                "method_config": as_dict(self._configs[cell.method]),
                "method_code": code_digest("attribench.explaining.job", *plugin_modules(kind)),
                "method_data": self._checksums(cell.method, kind),
                "fit_seed": cell.fit_seed,
                "max_edges": self._plan.max_edges,
                "randomised_graphs": self._plan.randomised_graphs,
            }
        return self._contents[cell]

    def __getitem__(self, piece: Piece) -> str:
        """Return the key of a piece's record."""
        if piece not in self._keys:
            if isinstance(piece, Cell):
                self._keys[piece] = digest(self.cell_content(piece))
            else:
                content = {**self.problem_content(piece), "max_edges": self._plan.max_edges}
                self._keys[piece] = "problem-" + digest(content)
        return self._keys[piece]

    def model(self, spec: ProblemSpec) -> str:
        """Return the key of a problem's trained model."""
        return digest(self.problem_content(spec))

    def scores(self, piece: Piece) -> str:
        """Return the key of what is scored for a piece."""
        return score_key(self[piece])

    def code(self, piece: Piece) -> str:
        """Return a short hash of what makes and scores a piece, whatever its seeds: the same on every machine.

        It is of the harness's and the plugins' code, their options, the files that they read and the run's options that
        decide figures; not of versions, device and threads, nor of the code that makes tables of figures.
        """
        task, kind = piece.task, TASKS[piece.task]
        content: dict[str, Any] = {
            "task": self._portable(task, kind, "attribench.plugins.task"),
            "scorers": portable_digest("attribench.scoring.judge", *scorer_modules()),
            "data of scorers": _read(*scorer_modules()),
            "max_edges": self._plan.max_edges,
        }
        if isinstance(piece, Cell):
            content["method"] = self._portable(piece.method, METHODS[piece.method], "attribench.explaining.job")
            content["randomised_graphs"] = self._plan.randomised_graphs
        return "c" + digest(content)[:11]  # a letter first, so that no reader of a table takes it for a number

    def _portable(self, name: str, kind: type[Method] | type[Task], root: str) -> dict[str, Any]:
        """Return what of a plugin decides on every machine; a folder of data has another path on each."""
        options = {option: value for option, value in as_dict(self._configs[name]).items() if option != "data_dir"}
        code = portable_digest(root, *plugin_modules(kind))
        return {"name": name, "options": options, "code": code, "data": self._checksums(name, kind)}

    def _checksums(self, name: str, kind: type[Method] | type[Task]) -> dict[str, str]:
        """Return the checksums of a plugin's files: those that it declares by name, those read at import by content."""
        if name not in self._data:
            config = self._configs[name]
            declared: Mapping[str, Path] = kind(config).sources() if issubclass(kind, Task) else kind.sources(config)
            self._data[name] = {**checksums(declared), **_read(*plugin_modules(kind))}
        return self._data[name]


def score_key(key: str) -> str:
    """Return the key of what is scored for the record of a ``key``."""
    own = scorer_modules()
    code = code_digest("attribench.scoring.judge", *own)
    return digest({"code": code, "data": _read(*own), "attributions": key})


def _read(*modules: str) -> dict[str, str]:
    """Return the checksums of what modules read while they were imported, by content: files have no name there."""
    read = sorted(checksums(read_while_imported(*modules)).values())
    return {"read while imported": " ".join(read)} if read else {}

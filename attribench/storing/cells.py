"""The cells of a results folder on disk: one atomic, content-addressed folder each, with checksums.

Only arrays and JSON are ever read back, from regular files of bounded size; what does not match its checksum counts as
not there and is made again.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from ..base.arrays import DamagedError, file_checksum, read_arrays, write_arrays
from ..base.errors import StorageError, UserError
from ..base.files import dump_checked, logger, read_checked, say_damaged, write_atomically
from ..plugins.method import Attribution
from .records import Described, Record, StoredScores, read_scores
from .stored_problem import StoredProblem

KEY = re.compile(r"(problem-)?[0-9a-f]{32}")


def is_key(text: object) -> bool:
    """Say whether this can be the key of a record: no other name becomes part of a path."""
    return isinstance(text, str) and KEY.fullmatch(text) is not None


class CellStore:
    """The cells of one results folder.

    Args:
        root: the results folder of the run.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cells = root / "cells"

    def _folder(self, key: str) -> Path:
        if not is_key(key):
            raise UserError(f"expected the key of a cell, 32 hexadecimal digits; got {key!r}")
        return self.cells / key

    def lock(self, key: str) -> FileLock:
        """Return the lock under which a cell is run and scored; it is given up when its process dies."""
        folder = self.root / ".locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"expected a writable folder; {folder}: {error.strerror}: choose another with --out"
            ) from error
        return FileLock(folder / f"{self._folder(key).name}.lock")

    def record(self, key: str) -> Record | None:
        """Return a cell's record: status, reason, costs and what decided it; None where there is none."""
        path = self._folder(key) / "record.json"
        if path.parent.is_symlink():  # what is written must not land elsewhere
            logger.warning("%s is a link and no cell of this folder; it is made again", path.parent)
            return None
        content = read_checked(path)
        if content is None:
            return None
        try:
            return Record.model_validate(content)
        except ValueError:
            say_damaged(path)
            return None

    def save(self, key: str, record: Mapping[str, Any], attributions: Mapping[str, Attribution], log: str) -> Record:
        """Store a cell in one step; return the record as it can be read back."""

        def write(draft: Path) -> None:
            draft.mkdir()
            arrays, described, checksum = {}, {}, None
            for split, attribution in attributions.items():
                described[split] = {"scale": attribution.scale, "per_layer": attribution.per_layer}
                arrays.update({f"{split}/{name}": x for name, x in _to_arrays(attribution).items()})
            if arrays:
                checksum = write_arrays(draft / "attributions.safetensors", arrays)
            if log:
                (draft / "log.txt").write_text(log, encoding="utf-8", errors="replace")
            dump_checked(draft / "record.json", {**record, "attributions": described, "checksum": checksum})

        write_atomically(self._folder(key), write)
        stored = self.record(key)
        if stored is None:
            raise StorageError(f"expected {self._folder(key)} to be there; it was written and cannot be read")
        return stored

    def add_to_log(self, key: str, text: str) -> None:
        """Add to what is kept of a cell's output."""
        path = self._folder(key) / "log.txt"
        if path.parent.is_symlink() or not path.parent.is_dir():
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            path.unlink()
        with path.open("a", encoding="utf-8", errors="replace") as file:
            file.write(text)

    def log(self, key: str) -> Path | None:
        """Return the file of what a cell said, where there is one."""
        path = self._folder(key) / "log.txt"
        return path if path.is_file() else None

    def sound(self, key: str, record: Record) -> bool:
        """Say whether the attributions of a record are those that were written; a damaged file is named."""
        path = self._folder(key) / "attributions.safetensors"
        try:
            if record.checksum is None or file_checksum(path) == record.checksum:
                return True
        except OSError:
            pass
        say_damaged(path)
        return False

    def attributions(self, key: str, record: Record, device: torch.device) -> dict[str, Attribution]:
        """Load a cell's attributions.

        Raises:
            DamagedError: when the file is not the one that was written.
        """
        path = self._folder(key) / "attributions.safetensors"
        arrays = read_arrays(path, record.checksum)
        try:
            return {
                split: _from_arrays(
                    {n.split("/", 1)[1]: x for n, x in arrays.items() if n.startswith(f"{split}/")}, meta, device
                )
                for split, meta in record.attributions.items()
            }
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedError(f"{path}: {type(error).__name__}: {error}") from error

    def scores(self, key: str, score_key: str | None = None) -> StoredScores | None:
        """Return what was scored for a cell, None where there is nothing or it is damaged.

        Args:
            key: of the cell.
            score_key: of the code that must have scored it; any where None.
        """
        folder = self._folder(key) / "scores"
        if folder.is_symlink() or folder.parent.is_symlink():
            return None
        content = read_checked(folder / "scores.json")
        if content is None:
            return None
        try:
            if content.pop("key") != score_key and score_key is not None:
                return None
            return read_scores(content, read_arrays(folder / "per_graph.safetensors", content.pop("checksum")))
        except (DamagedError, AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            say_damaged(folder / ("per_graph.safetensors" if isinstance(error, DamagedError) else "scores.json"))
            return None

    def save_scores(self, key: str, score_key: str, scores: StoredScores) -> None:
        """Store what was scored for a cell."""

        def write(draft: Path) -> None:
            draft.mkdir()
            columns = {f"{i}/{name}": x for i, row in enumerate(scores.rows) for name, x in row.per_graph.items()}
            columns |= {f"mask/{i}": row.mask for i, row in enumerate(scores.rows) if row.mask is not None}
            checksum = write_arrays(draft / "per_graph.safetensors", columns)
            rows = [asdict(replace(row, per_graph={}, mask=None)) for row in scores.rows]
            findings = None if scores.findings is None else asdict(scores.findings)
            content = {**vars(scores), "findings": findings, "rows": rows, "key": score_key, "checksum": checksum}
            dump_checked(draft / "scores.json", content)

        folder = self._folder(key)
        if folder.is_symlink():
            folder.unlink(missing_ok=True)
        write_atomically(folder / "scores", write)

    def problem(self, key: str) -> StoredProblem | None:
        """Return what is stored of a problem's graphs, None where there is nothing or it is damaged."""
        folder = self._folder(key) / "splits"
        return None if folder.is_symlink() or folder.parent.is_symlink() else StoredProblem.load(folder)

    def save_problem(self, key: str, problem: StoredProblem) -> None:
        """Store a problem's graphs.

        Raises:
            UserError: when its texts are too large.
        """

        def write(draft: Path) -> None:
            draft.mkdir()
            problem.save(draft)

        folder = self._folder(key)
        if folder.is_symlink():
            folder.unlink(missing_ok=True)
        write_atomically(folder / "splits", write)


def _to_arrays(attribution: Attribution) -> dict[str, Any]:
    tensors: dict[str, Tensor] = {"scores": attribution.scores}
    if attribution.hard_mask is not None:
        tensors["hard_mask"] = attribution.hard_mask
    if attribution.complete is not None:
        tensors["complete"] = attribution.complete
    tensors |= {f"baseline/{k}": b for k, b in enumerate(attribution.baselines or ())}
    tensors |= {f"diagnostic/{name}": x for name, x in attribution.diagnostics.items()}
    return {name: x.detach().cpu().numpy() for name, x in tensors.items()}


def _from_arrays(arrays: dict[str, Any], meta: Described, device: torch.device) -> Attribution:
    tensors = {name: torch.from_numpy(x).to(device) for name, x in arrays.items()}
    baselines = [tensors[f"baseline/{k}"] for k in range(sum(name.startswith("baseline/") for name in tensors))]
    return Attribution(
        tensors["scores"],
        meta.scale,
        tensors.get("hard_mask"),
        tuple(baselines) or None,
        {name.split("/", 1)[1]: x for name, x in tensors.items() if name.startswith("diagnostic/")},
        meta.per_layer,
        tensors.get("complete"),
    )

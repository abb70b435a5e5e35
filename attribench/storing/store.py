"""Records on disk: one atomic, content-addressed folder per cell, with checksums.

Only arrays and JSON are ever read back, from regular files of bounded size; what does not match its checksum counts as
not there and is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from platformdirs import user_cache_path
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from ..base.arrays import DamagedError, read_arrays, read_file, write_arrays
from ..base.errors import StorageError, UserError, printable
from ..base.reading import unwatched
from ..model.model import GraphModel
from ..plugins.method import Attribution
from .records import Record, StoredScores, read_scores

logger = logging.getLogger(__name__)

KEY = re.compile(r"(problem-)?[0-9a-f]{32}")
DRAFT = ".draft-"
OLD_DRAFT_SECONDS = 3600.0
MAX_JSON_BYTES = 2**24


def is_key(text: object) -> bool:
    """Say whether this can be the key of a record: no other name becomes part of a path."""
    return isinstance(text, str) and KEY.fullmatch(text) is not None


def digest(content: Any) -> str:
    """Return the key of JSON-serialisable content."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of what decides a result."""
    packages = ("torch", "torch-geometric", "captum", "numpy", "scikit-learn")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file or folder beside its place, then move it there in one step.

    Raises:
        UserError: when the folder cannot be written, or is full.
    """
    draft_root: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft_root = Path(tempfile.mkdtemp(prefix=DRAFT, dir=path.parent))
        draft = draft_root / path.name
        write(draft)
        if os.path.lexists(path) and (draft.is_dir() or (path.is_dir() and not path.is_symlink())):
            path.replace(draft_root / "replaced")
        draft.replace(path)
    except OSError as error:
        raise StorageError(
            f"expected a writable folder with room; {path.parent}: {error.strerror or error}: make room, or choose "
            "another with --out or --cache-dir"
        ) from error
    finally:
        if draft_root is not None:
            shutil.rmtree(draft_root, ignore_errors=True)


def remove_old_drafts(*folders: Path) -> None:
    """Remove what killed processes left half-written in these folders and below; a draft lives for seconds."""
    for root, names, _ in chain.from_iterable(map(os.walk, folders)):  # which passes over what vanishes meanwhile
        drafts = [Path(root) / name for name in names if name.startswith(DRAFT)]
        names[:] = [name for name in names if not name.startswith(DRAFT)]
        for draft in drafts:
            with contextlib.suppress(OSError):
                status = draft.lstat()  # what is no folder is not ours
                if stat.S_ISDIR(status.st_mode) and time.time() - status.st_mtime > OLD_DRAFT_SECONDS:
                    shutil.rmtree(draft, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_atomically(path, lambda draft: _dump(draft, content))


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def _dump_checked(path: Path, content: Any) -> None:
    _dump(path, {"checksum": digest(content), "content": content})


def read_json(path: Path) -> Any:
    """Read JSON from a regular file.

    Raises:
        DamagedError: when there is no such file, or it is too large or not JSON.
    """
    try:
        return json.loads(read_file(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError, MemoryError) as error:
        raise DamagedError(f"{path}: not JSON, or too much of it ({type(error).__name__})") from error


def _read_checked(path: Path) -> Any | None:
    """Read JSON that was written with its checksum; None where there is none or it is damaged."""
    if not os.path.lexists(path):
        return None
    try:
        stored = read_json(path)
        if isinstance(stored, dict) and "content" in stored and digest(stored["content"]) == stored.get("checksum"):
            return stored["content"]
    except (DamagedError, RecursionError, MemoryError):
        pass
    _say_damaged(path)
    return None


def _say_damaged(path: Path) -> None:
    logger.warning("%s is damaged; it is made again", path)


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

    def record(self, key: str) -> dict[str, Any] | None:
        """Return a cell's record: status, reason, costs and what decided it; None where there is none."""
        path = self._folder(key) / "record.json"
        if path.parent.is_symlink():  # what is written must not land elsewhere
            logger.warning("%s is a link and no cell of this folder; it is made again", path.parent)
            return None
        content = _read_checked(path)
        if content is None:
            return None
        try:
            return Record.model_validate(content).model_dump(exclude_unset=True)
        except ValueError:
            _say_damaged(path)
            return None

    def save(
        self, key: str, record: dict[str, Any], attributions: Mapping[str, Attribution], log: str
    ) -> dict[str, Any]:
        """Store a cell in one step; return the record as it can be read back."""

        def write(draft: Path) -> None:
            draft.mkdir()
            arrays, described, checksum = {}, {}, None
            for split, attribution in attributions.items():
                described[split] = {"scale": attribution.scale, "per_layer": attribution.per_layer}
                arrays.update({f"{split}/{name}": x for name, x in _to_arrays(attribution).items()})
            if arrays:
                checksum = write_arrays(draft / "attributions.npz", arrays)
            if log:
                (draft / "log.txt").write_text(log, encoding="utf-8", errors="replace")
            _dump_checked(draft / "record.json", {**record, "attributions": described, "checksum": checksum})

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

    def attributions(self, key: str, record: dict[str, Any], device: torch.device) -> dict[str, Attribution]:
        """Load a cell's attributions.

        Raises:
            DamagedError: when the file is not the one that was written.
        """
        path = self._folder(key) / "attributions.npz"
        arrays = read_arrays(path, record["checksum"])
        try:
            return {
                split: _from_arrays(
                    {n.split("/", 1)[1]: x for n, x in arrays.items() if n.startswith(f"{split}/")}, meta, device
                )
                for split, meta in record["attributions"].items()
            }
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedError(f"{path}: {type(error).__name__}: {error}") from error

    def scores(self, key: str, score_key: str) -> StoredScores | None:
        """Return what was scored for a cell under ``score_key``, None where there is nothing or it is damaged."""
        folder = self._folder(key) / "scores"
        if folder.is_symlink() or folder.parent.is_symlink():
            return None
        content = _read_checked(folder / "scores.json")
        if content is None:
            return None
        try:
            if content.pop("key") != score_key:
                return None
            return read_scores(content, read_arrays(folder / "per_graph.npz", content.pop("checksum")))
        except (DamagedError, AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            _say_damaged(folder / ("per_graph.npz" if isinstance(error, DamagedError) else "scores.json"))
            return None

    def save_scores(self, key: str, score_key: str, scores: StoredScores) -> None:
        """Store what was scored for a cell."""

        def write(draft: Path) -> None:
            draft.mkdir()
            columns = {f"{i}/{name}": x for i, row in enumerate(scores.rows) for name, x in row.per_graph.items()}
            checksum = write_arrays(draft / "per_graph.npz", columns)
            rows = [asdict(replace(row, per_graph={})) for row in scores.rows]
            findings = None if scores.findings is None else asdict(scores.findings)
            content = {**vars(scores), "findings": findings, "rows": rows, "key": score_key, "checksum": checksum}
            _dump_checked(draft / "scores.json", content)

        folder = self._folder(key)
        if folder.is_symlink():
            folder.unlink(missing_ok=True)
        write_atomically(folder / "scores", write)


def _to_arrays(attribution: Attribution) -> dict[str, Any]:
    tensors: dict[str, Tensor] = {"scores": attribution.scores}
    if attribution.hard_mask is not None:
        tensors["hard_mask"] = attribution.hard_mask
    if attribution.complete is not None:
        tensors["complete"] = attribution.complete
    tensors |= {f"baseline/{k}": b for k, b in enumerate(attribution.baselines or ())}
    tensors |= {f"diagnostic/{name}": x for name, x in attribution.diagnostics.items()}
    return {name: x.detach().cpu().numpy() for name, x in tensors.items()}


def _from_arrays(arrays: dict[str, Any], meta: dict[str, Any], device: torch.device) -> Attribution:
    tensors = {name: torch.from_numpy(x).to(device) for name, x in arrays.items()}
    baselines = [tensors[f"baseline/{k}"] for k in range(sum(name.startswith("baseline/") for name in tensors))]
    return Attribution(
        tensors["scores"],
        meta["scale"],
        tensors.get("hard_mask"),
        tuple(baselines) or None,
        {name.split("/", 1)[1]: x for name, x in tensors.items() if name.startswith("diagnostic/")},
        meta["per_layer"],
        tensors.get("complete"),
    )


class ModelCache:
    """Trained models by the content that decides them, with checksums.

    Args:
        folder: where they are; the platform's user cache folder by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (folder or user_cache_path("attribench")) / "models"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"expected a writable cache folder; {self.folder}: {error.strerror}: choose another with --cache-dir"
            ) from error

    def load_or_train(self, key: str, model: GraphModel, train: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Load weights and figures into ``model``, or train it and keep both. Of several processes, one trains."""
        with unwatched() as watched, FileLock(self.folder / f"{key}.lock"):  # the cache is no source of the task's
            figures = self._load(self.folder / key, model)
            if figures is None:
                before = _plain_state(model)
                with watched():
                    figures = train()
                _refuse_what_is_not_kept(before, _plain_state(model))
                self._save(self.folder / key, model, figures)
        return figures

    def is_of(self, key: str, data: str) -> bool:
        """Say whether a trained model was made with these data (a hash), which are kept at the first question."""
        path = self.folder / key / "data.json"
        if path.parent.is_symlink() or not path.parent.is_dir():
            return True  # nothing is kept
        with FileLock(self.folder / f"{key}.lock"):
            stored = _read_checked(path)
            if stored is None:
                write_atomically(path, lambda draft: _dump_checked(draft, data))
        return stored is None or stored == data

    def _load(self, path: Path, model: GraphModel) -> dict[str, float] | None:
        if path.is_symlink() or not path.exists():
            return None
        weights = path / "weights.npz"
        described = _read_checked(path / "model.json")
        if described is None:
            return None
        try:
            described = _Trained.model_validate(described)
            arrays = read_arrays(weights, described.checksum)
            state = {name: torch.from_numpy(array) for name, array in arrays.items()}
            expected = model.state_dict()
            if {name: (x.shape, x.dtype) for name, x in state.items()} != {
                name: (x.shape, x.dtype) for name, x in expected.items()
            }:
                raise DamagedError(f"{weights}: weights of another model")
        except (DamagedError, ValueError, TypeError) as error:
            reason = printable(str(error).partition("\n")[0])
            logger.warning("the trained model %s is damaged (%s); training it again", weights, reason)
            return None
        model.load_state_dict(state)
        return dict(described.figures)

    def _save(self, path: Path, model: GraphModel, figures: dict[str, float]) -> None:
        state = {name: x.detach().cpu().numpy() for name, x in model.state_dict().items()}

        def write(draft: Path) -> None:
            draft.mkdir()
            checksum = write_arrays(draft / "weights.npz", state)
            _dump_checked(draft / "model.json", {"checksum": checksum, "figures": figures})

        write_atomically(path, write)


def _plain_state(model: GraphModel) -> dict[str, Any]:
    """Return what a model holds beside parameters and buffers and could have learned: numbers and loose weights."""
    state: dict[str, Any] = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            where = f"{path}.{name}".lstrip(".")
            if isinstance(value, int | float) and not isinstance(value, bool):  # flags are set by libraries, too
                state[where] = value
            elif isinstance(value, Tensor) and value.is_leaf and value.requires_grad:
                state[where] = value._version
    return state


def _refuse_what_is_not_kept(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Raise UserError where training changed what a kept model would have lost."""
    changed = [name for name in after if name not in before or before[name] != after[name]]
    if changed:
        raise UserError(
            f"expected training to change parameters and buffers alone, which are kept; it changed {changed[0]!r}, "
            "too: make it an nn.Parameter, or use register_buffer"
        )


class _Trained(BaseModel):
    """What is kept beside a model's weights."""

    model_config = ConfigDict(extra="forbid", strict=True)

    checksum: str
    figures: dict[str, float]

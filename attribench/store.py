"""Records on disk: one atomic, content-addressed folder per cell. Only arrays and JSON are ever read back."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import logging
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor

from .errors import UserError
from .method import Attribution
from .model import GraphModel

logger = logging.getLogger(__name__)

COMPUTING = (
    "gates", "graphs", "hard_concrete", "integrity", "masks", "method", "model", "noise", "output", "seeds", "task",
    "training",
)  # fmt: skip
"""Harness modules that decide an attribution."""

SCORING = ("gates", "gold", "graphs", "masks", "method", "noise", "output", "scoring", "seeds", "task")
"""Harness modules that decide a score."""


def digest(content: Any) -> str:
    """Return the key of JSON-serialisable content."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def source_digest(*modules: str) -> str:
    """Return a hash of the source text of imported modules."""
    sources = [inspect.getsource(sys.modules.get(name) or importlib.import_module(name)) for name in modules]
    return digest(sources)


def plugin_digest(plugin: type[Any]) -> str:
    """Return a hash of the source text of a plugin, of its base classes, and of the sibling modules that it uses."""
    package = plugin.__module__.rpartition(".")[0]
    found: set[str] = set()
    waiting = [base.__module__ for base in plugin.__mro__ if base.__module__ not in ("builtins", "abc", "typing")]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            used = {getattr(value, "__module__", None) for value in vars(sys.modules[name]).values()}
            waiting += [other for other in used if other and package and other.startswith(f"{package}.")]
    return source_digest(*sorted(found))


def harness_digest(modules: tuple[str, ...]) -> str:
    """Return a hash of harness modules, named without the package."""
    return source_digest(*(f"attribench.{name}" for name in modules))


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of what decides a result."""
    return {name: version(name) for name in ("torch", "torch-geometric", "captum", "numpy", "scikit-learn")}


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file or folder beside its place, then move it there in one step.

    Raises:
        UserError: when the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft_root = Path(tempfile.mkdtemp(prefix=".draft-", dir=path.parent))
    except OSError as error:
        raise UserError(
            f"expected a writable folder; {path.parent}: {error.strerror}: choose another with --out or --cache-dir"
        ) from error
    try:
        draft = draft_root / path.name
        write(draft)
        if draft.is_dir() and path.exists():
            path.replace(draft_root / "replaced")
        draft.replace(path)
    finally:
        shutil.rmtree(draft_root, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_atomically(path, lambda draft: _dump(draft, content))


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any | None:
    """Read JSON; None where there is no such file or it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


class CellStore:
    """The cells of one results folder.

    Args:
        root: the results folder of the run.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cells = root / "cells"

    def record(self, key: str) -> dict[str, Any] | None:
        """Return a cell's record: status, reason, costs and what decided it; None where there is none."""
        content = read_json(self.cells / key / "record.json")
        return content if isinstance(content, dict) else None

    def save(self, key: str, record: dict[str, Any], attributions: dict[str, Attribution], log: str) -> None:
        """Store a cell in one step."""

        def write(draft: Path) -> None:
            draft.mkdir()
            arrays, described = {}, {}
            for split, attribution in attributions.items():
                described[split] = {"scale": attribution.scale, "per_layer": attribution.per_layer}
                arrays.update({f"{split}/{name}": x for name, x in _to_arrays(attribution).items()})
            if arrays:
                np.savez(draft / "attributions.npz", **arrays)
            if log:
                (draft / "log.txt").write_text(log, encoding="utf-8")
            _dump(draft / "record.json", {**record, "attributions": described})

        write_atomically(self.cells / key, write)

    def attributions(self, key: str, record: dict[str, Any], device: torch.device) -> dict[str, Attribution]:
        """Load a cell's attributions."""
        with np.load(self.cells / key / "attributions.npz", allow_pickle=False) as arrays:
            return {
                split: _from_arrays(
                    {n.split("/", 1)[1]: arrays[n] for n in arrays if n.startswith(f"{split}/")}, meta, device
                )
                for split, meta in record["attributions"].items()
            }

    def scores(self, key: str, score_key: str) -> list[dict[str, Any]] | None:
        """Return the rows scored for a cell under ``score_key``, None where there are none."""
        content = read_json(self.cells / key / "scores.json")
        return content["rows"] if isinstance(content, dict) and content.get("key") == score_key else None

    def save_scores(self, key: str, score_key: str, rows: list[dict[str, Any]]) -> None:
        """Store the rows scored for a cell."""
        write_json(self.cells / key / "scores.json", {"key": score_key, "rows": rows})


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
    """Trained models by the content that decides them.

    Args:
        folder: where they are; the platform's user cache folder by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (folder or user_cache_path("attribench")) / "models"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"expected a writable cache folder; {self.folder}: {error.strerror}: choose another with --cache-dir"
            ) from error

    def load_or_train(self, key: str, model: GraphModel, train: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Load weights and figures into ``model``, or train it and keep both."""
        path = self.folder / f"{key}.pt"
        if path.is_file():
            try:
                stored = torch.load(path, map_location="cpu", weights_only=True)
                model.load_state_dict(stored["state"])
                return dict(stored["figures"])
            except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
                logger.warning("the trained model %s is damaged (%s); training it again", path, type(error).__name__)
        figures = train()
        state = {name: x.cpu() for name, x in model.state_dict().items()}
        write_atomically(path, lambda draft: torch.save({"state": state, "figures": figures}, draft))
        return figures

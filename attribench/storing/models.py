"""Trained models on disk, by the content that decides them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from platformdirs import user_cache_path
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from ..base.arrays import DamagedError, read_arrays, write_arrays
from ..base.errors import StorageError, UserError, printable
from ..base.files import dump_checked, logger, read_checked, write_atomically
from ..base.reading import unwatched
from ..model.model import GraphModel


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
            stored = read_checked(path)
            if stored is None:
                write_atomically(path, lambda draft: dump_checked(draft, data))
        return stored is None or stored == data

    def _load(self, path: Path, model: GraphModel) -> dict[str, float] | None:
        if path.is_symlink() or not path.exists():
            return None
        weights = path / "weights.safetensors"
        described = read_checked(path / "model.json")
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
            checksum = write_arrays(draft / "weights.safetensors", state)
            dump_checked(draft / "model.json", {"checksum": checksum, "figures": figures})

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

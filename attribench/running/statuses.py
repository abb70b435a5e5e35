"""How cells and problems end, and which endings a run keeps."""

from __future__ import annotations

from .options import Overwrite

REFUSED = "refused"
"""Status of a problem that is not what the harness takes it for; its cells are skipped with the reason."""

SCORED = ("ok", "partial")
"""Statuses of cells that have attributions."""

OVERWRITE: dict[Overwrite, tuple[str, ...]] = {
    "failed": (*SCORED, "skipped", "infeasible"),
    "never": (*SCORED, "skipped", "infeasible", "failed", "timeout", "out-of-memory"),
    "always": (),
}
"""Statuses of the records that a run keeps, by ``--overwrite``."""

"""What is stored of a piece, as the tables take it."""

from __future__ import annotations

from ..base.pieces import Cell, ProblemSpec
from ..storing.records import ProblemResult, Record, Result, StoredScores


def problem_result(spec: ProblemSpec, stored: StoredScores) -> ProblemResult:
    """Return a problem's figures and controls, as stored."""
    return ProblemResult(spec.task, *spec.seeds, stored.figures, stored.ablations, stored.rows)


def cell_result(cell: Cell, record: Record, stored: StoredScores) -> Result:
    """Return a cell with what was scored for it, or how the scoring ended."""
    if stored.status != "ok":
        return Result(cell, record.ended(stored.status, stored.reason), [])
    return Result(cell, record, stored.rows)

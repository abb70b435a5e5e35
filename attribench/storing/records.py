"""What records say, validated: files may come from others, and a right checksum makes no record right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ..base.errors import printable
from ..base.pieces import Cell, ProblemSpec
from ..examining.examination import Findings
from ..scoring.figures import entry_of
from ..scoring.row import Scores

Number = bool | int | float | None

Line = Annotated[str, AfterValidator(printable)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)


class Described(_Strict):
    """What the arrays of an attribution do not say."""

    scale: Literal["gate", "relative"]
    per_layer: bool


class Record(_Strict):
    """How a cell ended, what it cost, and what decided it; see :class:`~attribench.explaining.job.Outcome`."""

    status: Line
    reason: Line
    costs: dict[str, Number]
    figures: dict[str, Number]
    attributions: dict[str, Described]
    checksum: str | None
    content: dict[str, Any] = {}
    commit: str | None = None

    @staticmethod
    def failed(reason: str) -> Record:
        """Return the record of a cell that has none."""
        return Record(status="failed", reason=reason, costs={}, figures={}, attributions={}, checksum=None)

    def ended(self, status: str, reason: str) -> Record:
        """Return it with another ending."""
        return self.model_copy(update={"status": status, "reason": reason})


class _Row(_Strict):
    method: Annotated[Line, Field(min_length=1)]
    kind: Literal["method", "control"]
    figures: dict[str, Number | str]
    per_graph: dict[str, np.ndarray]
    layers: list[dict[str, Number]]
    unfinished: list[int]
    mask: np.ndarray | None = None

    @model_validator(mode="after")
    def _check(self) -> _Row:
        if any(isinstance(value, str) and entry_of(name).unit != "text" for name, value in self.figures.items()):
            raise ValueError("expected numbers for figures")
        if [layer.get("layer") for layer in self.layers] != list(range(len(self.layers))):
            raise ValueError("expected the layers in their order")
        if not (self.layers or self.unfinished):
            raise ValueError("expected layers")
        if len({column.shape for column in self.per_graph.values()}) > 1:
            raise ValueError("expected columns of one length")
        if any(column.ndim != 1 for column in self.per_graph.values()):
            raise ValueError("expected one value per graph")
        if self.mask is not None and (self.mask.dtype != bool or self.mask.ndim != 2 or not len(self.mask)):
            raise ValueError("expected a mask (L, E) of truth values")
        if self.mask is not None and len(self.mask) != len(self.layers):
            raise ValueError("expected a row of the mask for every layer")
        return self


class _Findings(_Strict):
    num_layers: Annotated[int, Field(ge=1)]
    replay: bool
    without_gradient: list[int]
    unused: list[int]
    data: Line


class _StoredScores(_Strict):
    rows: list[_Row]
    status: Line
    reason: Line
    log: str
    figures: dict[str, Number]
    ablations: list[float]
    findings: _Findings | None

    @model_validator(mode="after")
    def _check(self) -> _StoredScores:
        if self.status == "ok" and not self.rows:
            raise ValueError("expected rows")
        depths = {len(row.layers) for row in self.rows if row.layers}
        if len(depths) > 1 or (self.ablations and {len(self.ablations)} != depths):
            raise ValueError("expected as many layers in every row")
        if self.figures and not self.ablations:
            raise ValueError("expected one ablation a layer")
        return self


@dataclass(frozen=True)
class StoredScores:
    """What was scored for a cell, or for a problem.

    Args:
        rows: of the method and its controls, or of the problem's controls.
        status: ``ok``, or how the scoring ended without rows.
        reason: why.
        log: a traceback, where there is one.
        figures: the problem's.
        ablations: the problem's metric with one layer's messages dropped.
        findings: what examining the problem found.
    """

    rows: Sequence[Scores] = ()
    status: str = "ok"
    reason: str = ""
    log: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    ablations: Sequence[float] = ()
    findings: Findings | None = None


def read_scores(content: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> StoredScores:
    """Return scores from what was stored: the content of their JSON, and arrays.

    Args:
        content: of the JSON.
        columns: of the rows' graphs, ``ROW/NAME``, and their masks, ``mask/ROW``.

    Raises:
        ValueError, KeyError, TypeError, IndexError: when they cannot be scores.
    """
    rows = [{**row, "per_graph": {}} for row in content["rows"]]
    for name, values in columns.items():
        number, _, column = name.partition("/")
        if number == "mask" and column.isdecimal():
            rows[int(column)]["mask"] = values
        elif number.isdecimal() and column:
            rows[int(number)]["per_graph"][column] = values
        else:
            raise ValueError(f"expected columns called ROW/NAME, or masks called mask/ROW; got {name!r}")
    stored = _StoredScores.model_validate({**content, "rows": rows})
    findings = None if stored.findings is None else Findings(**stored.findings.model_dump())
    return StoredScores(
        rows=[Scores(**{name: getattr(row, name) for name in _Row.model_fields}) for row in stored.rows],
        findings=findings,
        **{name: getattr(stored, name) for name in ("status", "reason", "log", "figures", "ablations")},
    )


@dataclass
class Result:
    """A cell's record with the rows scored for it."""

    cell: Cell
    record: Record
    rows: Sequence[Scores]
    log: Path | None = None

    @staticmethod
    def of(cell: Cell, record: Record, stored: StoredScores) -> Result:
        """Return a cell with what was scored for it, or how the scoring ended."""
        if stored.status != "ok":
            return Result(cell, record.ended(stored.status, stored.reason), [])
        return Result(cell, record, stored.rows)


@dataclass
class ProblemResult:
    """A problem's own figures and its controls."""

    task: str
    data_seed: int
    model_seed: int
    figures: Mapping[str, Any]
    ablations: Sequence[float]
    rows: Sequence[Scores]

    @staticmethod
    def of(spec: ProblemSpec, stored: StoredScores) -> ProblemResult:
        """Return a problem's figures and controls, as stored."""
        return ProblemResult(spec.task, *spec.seeds, stored.figures, stored.ablations, stored.rows)


@dataclass(frozen=True)
class About:
    """What a run's tables say of a task.

    Args:
        summary: the task in a line.
        published: published figures: method -> metric -> value in [0, 1].
        meanings: of the figures that its problems report, by name.
    """

    summary: str
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    meanings: Mapping[str, str] = field(default_factory=dict)

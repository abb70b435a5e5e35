"""What a run can be told: one model of its options, with defaults, bounds and meanings.

The command line, the table ``[run]`` of a file and :func:`attribench.api.run` take what they say from it. Nothing heavy
is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ..base.errors import UserError
from ..base.limits import MAX_EDGES
from ..base.names import base_name
from ..plugins.configs import refusal

Varied = Literal["data", "model", "fit"]
"""What a seed is of."""

Overwrite = Literal["failed", "never", "always"]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else list(value) if isinstance(value, tuple) else value


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, PathLike) else value


Names = Annotated[list[str], BeforeValidator(_as_list)]
Folder = Annotated[str | None, BeforeValidator(_as_text)]
Threads = Annotated[int, Field(ge=1, le=1024)]
MaxEdges = Annotated[int, Field(ge=1, le=2**40)]
Graphs = Annotated[int, Field(ge=0, le=2**31)]


class RunOptions(BaseModel):
    """Options of a run."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    methods: Annotated[Names, Field(description="Names, comma-separated or repeated, or 'all'.")] = ["all"]
    task: Annotated[Names, Field(description="As for --methods.")] = ["toy"]
    seeds: Annotated[int, Field(ge=1, le=100_000, description="How many seeds.")] = 1
    vary: Annotated[Names, Field(description="What varies with the seed, of data, model and fit, comma-separated.")] = [
        "data",
        "model",
        "fit",
    ]
    first_seed: Annotated[int, Field(ge=0, le=2**31, description="The first of them.")] = 0
    data_dir: Annotated[
        Folder,
        Field(description="Folder of licensed data, for tasks that can read it in place of their own."),
    ] = None
    out: Annotated[Folder, Field(description="Results folder.  [default: results/TASKS]")] = None
    device: Annotated[str, Field(description="auto, cpu, cuda or cuda:i.")] = "auto"
    threads: Annotated[Threads, Field(description="PyTorch threads, the same for every cell.")] = 1
    jobs: Annotated[
        int | None,
        Field(
            ge=0,
            le=1024,
            description="Worker processes; results are the same for any number. 0: in this process, where debuggers "
            "work.  [default: one per free core, one on a GPU]",
        ),
    ] = None
    cell_timeout: Annotated[
        float | None,
        Field(
            gt=0,
            le=1e9,
            description="Seconds a cell may take; training the model is not part of it.  [default: no limit]",
        ),
    ] = None
    max_edges: Annotated[
        MaxEdges,
        Field(
            description="Edges that one pass holds at most; larger batches are split, and scores differ by rounding "
            "alone."
        ),
    ] = MAX_EDGES
    overwrite: Annotated[
        Overwrite,
        Field(
            description="Cells of the folder to run again: failed (also timeout and out-of-memory), never or always."
        ),
    ] = "failed"
    randomised_graphs: Annotated[
        Graphs, Field(description="Test graphs explained for shuffled weights, too; 0 for none.")
    ] = 100
    cache_dir: Annotated[
        Folder, Field(description="Folder of trained models.  [default: the platform's user cache folder]")
    ] = None
    plugin: Annotated[Names, Field(description="Python file or module with further methods or tasks. Repeatable.")] = []

    @model_validator(mode="after")
    def _ends_what_it_can(self) -> RunOptions:
        if self.cell_timeout is not None and self.jobs == 0:
            raise ValueError(
                "expected --cell-timeout with --jobs of at least 1 (a process of its own can be ended); got --jobs 0"
            )
        return self


def results_folder(out: str | Path | None, tasks: Iterable[str]) -> Path:
    """Return where results go: ``out``, or a folder that is called by the tasks."""
    return Path(out or Path("results") / "+".join(map(base_name, tasks)))


def run_options(table: Mapping[str, Any], **given: Any) -> RunOptions:
    """Join the command line's options with those of a table of a file and the defaults; the command line wins.

    Args:
        table: of the file, by names with - or _.
        **given: the command line's, None where it does not say.

    Raises:
        UserError: for a name that is no option, a value of another kind, or a number out of bounds.
    """
    told = {name.replace("-", "_"): value for name, value in table.items()}
    told |= {name: value for name, value in given.items() if value is not None}
    for name in told:
        if name not in RunOptions.model_fields:
            raise UserError(f"expected options of a run among {', '.join(RunOptions.model_fields)}; got {name!r}")
    try:
        return RunOptions(**told)
    except ValidationError as error:
        raise refusal(error, "run") from error

"""Options of the command line that commands share: the meanings and defaults of a run's, told in one place."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import __version__
from .running.options import RunOptions


def option(name: str) -> Any:
    """Return the command line's option of a run's: its meaning and default are told in one place."""
    known = RunOptions.model_fields[name]
    default = ", ".join(known.default) if isinstance(known.default, list) else known.default
    told = f"  [default: {default}]" if default or default == 0 else ""
    return typer.Option(help=f"{known.description}{told}")


Methods = Annotated[list[str] | None, option("methods")]
Plugins = Annotated[list[str] | None, option("plugin")]
CacheDir = Annotated[str | None, option("cache_dir")]
DataDir = Annotated[str | None, option("data_dir")]
Device = Annotated[str | None, option("device")]
Threads = Annotated[int | None, option("threads")]
Jobs = Annotated[int | None, option("jobs")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"attribench {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version, and nothing else.")
]

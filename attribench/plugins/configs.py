"""Configurations from ``--set`` and ``--config``: parsed, validated, and refused with one clear line."""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
import tomllib
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from ..base.errors import UserError

Overrides = dict[str, dict[str, Any]]


class Told(str):
    """A value as it was typed on a command line, where all is text; any other text is text, and no number."""

    __slots__ = ()


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def read_config(path: Path) -> Overrides:
    """Read a TOML file: a table ``[run]`` with command-line options, and one table per task or method.

    Raises:
        UserError: when it cannot be read, is not TOML, or holds something other than tables.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"expected a readable configuration file; {path}: {error.strerror}: check the path") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"expected a TOML file; {path}: {error}: mend the file") from error
    for name, table in content.items():
        if not isinstance(table, dict):
            raise UserError(
                f"expected tables such as [run] or [toy] in {path}; got {name} = {table!r}: move it into one"
            )
    return content


def parse_overrides(assignments: Sequence[str]) -> Overrides:
    """Parse ``plugin.option=value`` assignments; values stay text until they are validated."""
    overrides: Overrides = {}
    for assignment in assignments:
        target, equals, value = assignment.partition("=")
        plugin, dot, option = target.strip().partition(".")
        if not (equals and dot and plugin and option):
            raise UserError(f"expected --set PLUGIN.OPTION=VALUE, such as toy.colours=8; got {assignment!r}")
        overrides.setdefault(plugin.strip(), {})[option.strip().replace("-", "_")] = Told(value.strip())
    return overrides


def as_told(stored: Any) -> Any:
    """Return overrides that a file keeps, or anything else of it, with texts as they may have been told."""
    if isinstance(stored, str):
        return Told(stored)
    return {name: as_told(value) for name, value in stored.items()} if isinstance(stored, dict) else stored


def variant_options(name: str) -> dict[str, str]:
    """Return the options in a variant's name: those of ``gnnexplainer[steps=100]`` are ``{"steps": "100"}``.

    Raises:
        UserError: when the brackets do not hold OPTION=VALUE assignments.
    """
    base, bracket, rest = name.partition("[")
    if not bracket:
        return {}
    if not rest.endswith("]"):
        raise UserError(f"expected a variant such as gnnexplainer[steps=100]; got {name!r}: close the bracket")
    assignments = rest[:-1].split(",")
    if not all(option.partition("=")[1] and option.partition("=")[0].strip() for option in assignments):
        raise UserError(
            f"expected a variant such as gnnexplainer[steps=100]; got {name!r}: write OPTION=VALUE in the brackets, or "
            "leave them out"
        )
    options = parse_overrides([f"{base}.{assignment}" for assignment in assignments]).get(base, {})
    if len(options) < len(assignments):
        raise UserError(f"expected every option of a variant once; got {name!r}: leave one out")
    return options


def as_overrides(given: Any, what: str) -> Overrides:
    """Return options by the name of a task or method, and by their own, as they came from Python.

    Raises:
        UserError: when they are something else.
    """
    if given is None:
        return {}
    right = isinstance(given, Mapping) and all(
        isinstance(name, str) and isinstance(options, Mapping) and all(isinstance(option, str) for option in options)
        for name, options in given.items()
    )
    if not right:
        raise UserError(f"expected {what} such as {{'toy': {{'colours': 8}}}}; got {_short.repr(given)}")
    return {name: dict(options) for name, options in given.items()}


def merge(*layers: Overrides) -> Overrides:
    """Merge overrides; later ones win."""
    merged: Overrides = {}
    for layer in layers:
        for plugin, options in layer.items():
            merged.setdefault(plugin, {}).update(options)
    return merged


def make_config(plugin: str, kind: type[Any], options: Mapping[str, Any]) -> Any:
    """Build a plugin's configuration.

    Raises:
        UserError: for an unknown option, with the valid ones, a value of another kind, or one out of range, with the
            range.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            valid = ", ".join(names) or "none: it has no options"
            raise UserError(f"expected an option of {plugin} among {valid}; got {name!r}.{hint}")
        _check_kind(kind, plugin, name, options[name])
    try:
        return kind(**options)
    except UserError as error:
        raise UserError(f"{plugin}: {error}") from error
    except ValidationError as error:
        raise refusal(error, plugin) from error


def _check_kind(kind: type[Any], plugin: str, name: str, value: Any) -> None:
    """Raise UserError where a value only looks like one of its option's: ``"8"`` for a number, 1 for a truth value.

    It is read as JSON is, where a list may be a tuple and a text a path; what JSON cannot say is left to the option.
    """
    field = getattr(kind, "__pydantic_fields__", {}).get(name)
    if field is None or isinstance(value, Told):
        return
    bounded = reduce(lambda known, bound: Annotated[known, bound], field.metadata, field.annotation)
    try:
        text = to_json(value, inf_nan_mode="constants")
    except PydanticSerializationError:
        return
    try:
        TypeAdapter(bounded).validate_json(text, strict=True)
    except ValidationError as error:
        raise refusal(error, plugin, name) from error


def refusal(error: ValidationError, *whose: str) -> UserError:
    """Return in one line what is wrong with the first option that is refused: of a plugin, or the one that is named."""
    first = error.errors()[0]
    path = (*whose, *first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    got = f"; got {_short.repr(first['input'])}: change it" if len(path) > 1 else ""
    return UserError(f"{'.'.join(map(str, path))}: {message}{got}")


def as_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as plain values, for records and keys."""
    return dataclasses.asdict(config)


def describe(plugin: str, kind: type[Any]) -> list[str]:
    """Return one line per option: how to set it, its default, its range and what it is."""
    properties = TypeAdapter(kind).json_schema(mode="serialization").get("properties", {})
    lines = []
    for name, schema in properties.items():
        bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema]
        choices = [str(choice) for choice in schema.get("enum", [])]
        limits = f" ({', '.join([*bounds, *choices])})" if bounds or choices else ""
        lines.append(f"{plugin}.{name}={schema.get('default')}{limits}  {schema.get('description', '')}")
    return lines

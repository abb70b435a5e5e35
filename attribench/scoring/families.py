"""Families of figures by name: ``{...}`` in ``f1_at_threshold_{t}`` stands for any text."""

from __future__ import annotations

import re
from functools import cache


def fits(pattern: str, name: str) -> bool:
    """Say whether a name is one of a family: ``{...}`` in the pattern stands for any text."""
    return _match(pattern, name) is not None


def inside(pattern: str, name: str) -> dict[str, str]:
    """Return what stands in a name for the ``{...}`` of its family."""
    found = _match(pattern, name)
    return found.groupdict() if found else {}


@cache
def _match(pattern: str, name: str) -> re.Match[str] | None:
    return re.fullmatch(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(pattern)), name)

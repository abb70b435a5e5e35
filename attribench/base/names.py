"""Names of methods and tasks, and of their variants: ``gnnexplainer[steps=100]`` is one of ``gnnexplainer``."""

from __future__ import annotations

import re


def split_names(text: str) -> list[str]:
    """Split at commas outside brackets: ``a,b[x=1,y=2]`` is ``a`` and ``b[x=1,y=2]``."""
    names = re.findall(r"(?:[^,\[]|\[[^\]]*\]|\[)+", text)
    return [name.strip() for name in names if name.strip()]


def base_name(name: str) -> str:
    """Return a name without the options of a variant: ``gnnexplainer`` of ``gnnexplainer[steps=5]``."""
    return name.partition("[")[0]

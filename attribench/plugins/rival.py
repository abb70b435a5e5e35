"""Other implementations of a method, which are timed beside ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..model.graphs import GraphBatch

if TYPE_CHECKING:
    from .method import Subject


@dataclass(frozen=True)
class Rival:
    """Another implementation of a method, which ``bench`` times beside ours in the same run.

    Args:
        name: what it is and how it is called.
        explain: explains a batch with the options that the method was given.
        sample: how many graphs to time it on; None for the whole batch in one call.
        reads: node features without which it does not work.
        needs_messages: whether it reaches messages that layers send as vectors alone, as PyG's explainers do.
    """

    name: str
    explain: Callable[[Subject, GraphBatch, Any], Any]
    sample: int | None = None
    reads: tuple[str, ...] = ()
    needs_messages: bool = False

"""What was seen stays what was seen: tensors that a model hands out and then changes in place."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

T = TypeVar("T")


class Watch:
    """Tells which values were changed after they were taken, by the version counters of their tensors.

    Args:
        copies: names of values that are copied when they are taken.
    """

    def __init__(self, copies: Collection[str] = ()) -> None:
        self.copies = copies
        self._seen: list[tuple[str, Tensor, int]] = []

    def add(self, name: str, value: Any) -> None:
        """Take note of the tensors in a value."""
        self._seen += [(name, tensor, tensor._version) for tensor in tensors(value) if not tensor.is_inference()]

    def take(self, name: str, value: T) -> T:
        """Return a value, or a copy of it, and take note of what it was."""
        if name in self.copies:
            return copied(value)
        self.add(name, value)
        return value

    def changed(self) -> list[str]:
        """Return the names of the values that are not what they were."""
        return list(dict.fromkeys(name for name, tensor, version in self._seen if tensor._version != version))


def copied(value: T) -> T:
    """Return a deep copy of a value; what shares memory in it does so in the copy."""
    return copy.deepcopy(value)


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value: in lists, tuples, dicts, dataclasses and plain objects."""
    waiting, met = [value], set[int]()
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            yield item
        elif id(item) not in met and not isinstance(item, nn.Module | type | str | int | float | None):
            met.add(id(item))
            if isinstance(item, dict):
                waiting += item.values()
            elif isinstance(item, list | tuple | set | frozenset):
                waiting += item
            elif is_dataclass(item):
                waiting += [getattr(item, field.name) for field in fields(item)]
            elif hasattr(item, "__dict__"):
                waiting += vars(item).values()

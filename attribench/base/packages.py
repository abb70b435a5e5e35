"""Which distributions an imported package comes from, and their versions.

To know it, Python reads what every installed distribution says of itself. That is noted, and read anew where one was
installed, removed or changed.
"""

from __future__ import annotations

import hashlib
import os
import sys
from functools import cache

from .notes import read_note, write_note

_NOTE = "packages"
_SAYS = ("METADATA", "PKG-INFO", "RECORD", "SOURCES.txt", "top_level.txt", "entry_points.txt")


def installed() -> str:
    """Return a hash of what is installed: the distributions that Python finds, and when they were written.

    What a distribution says of itself is written when it is installed, so that it need not be read for this.
    """
    found = [sys.version]
    for folder in sys.path:
        try:
            names = sorted(os.listdir(folder or "."))  # noqa: PTH208 - names are enough
        except OSError:
            names = []
        found.append(folder)
        for name in names:
            if name.endswith((".dist-info", ".egg-info", ".egg-link", ".egg", ".pth")):
                path = os.path.join(folder, name)  # noqa: PTH118
                found += [name, _written(path), *(_written(f"{path}{os.sep}{part}") for part in _SAYS)]
    return hashlib.sha256("\n".join(found).encode(errors="surrogateescape")).hexdigest()


def _written(path: str) -> str:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return "-"
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def distributions_of(package: str) -> str:
    """Return "NAME VERSION" of every distribution that brings a package; without a version where none is known."""
    return " ".join(_distributions().get(package) or [f"{package} {_version(package)}".strip()])


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except (PackageNotFoundError, ValueError):
        return ""


@cache
def _distributions() -> dict[str, list[str]]:
    key, noted = installed(), read_note(_NOTE)
    if isinstance(noted, dict) and noted.get("installed") == key:
        known: dict[str, list[str]] = noted["packages"]
        return known
    from importlib.metadata import packages_distributions

    names = {package: sorted(set(map(str, found))) for package, found in packages_distributions().items()}
    told = {name: f"{name} {_version(name)}".strip() for found in names.values() for name in found}
    packages = {package: [told[name] for name in found] for package, found in names.items()}
    write_note(_NOTE, {"installed": key, "packages": packages})
    return packages

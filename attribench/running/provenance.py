"""Where results come from: the commit, the versions of libraries, the machine."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of what decides a result."""
    packages = ("torch", "torch-geometric", "captum", "numpy", "scikit-learn")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


@cache
def git_commit() -> str | None:
    """Return the commit of the checkout this runs from, with ``-dirty`` where it was changed; None without one."""
    root = Path(__file__).resolve().parent.parent.parent
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=root, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def device_name(device: str) -> str:
    """Return what a device is called in results: the type of the CPU, the name of a GPU."""
    kind = torch.device(device)
    return torch.cuda.get_device_name(kind) if kind.type == "cuda" else kind.type


def provenance(device: str) -> dict[str, Any]:
    """Return what is kept of the place where a run is made."""
    import attribench

    return {
        "attribench": attribench.__version__,
        "commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "versions": library_versions(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }

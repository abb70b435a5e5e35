"""What a cell costs: wall-clock seconds and peak memory, reset per cell."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Peak memory of a block in MiB: of the device on CUDA, of the process on Linux, None elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.mebibytes: float | None = None

    def __enter__(self) -> Self:
        self._known = True
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return self
        try:
            _CLEAR.write_text("5")  # resets VmHWM
        except OSError:
            self._known = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            self.mebibytes = torch.cuda.max_memory_allocated(self.device) / 2**20
        elif self._known:
            lines = _STATUS.read_text().splitlines()
            self.mebibytes = next((int(x.split()[1]) / 1024 for x in lines if x.startswith("VmHWM:")), None)


class Stopwatch:
    """Seconds of a block, waiting for the device's queue at both ends."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def __enter__(self) -> Self:
        self._start = self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = self._now() - self._start

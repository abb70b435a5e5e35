"""Runs one method on one problem: what it found, what it cost, and how it ended, whatever happens."""

from __future__ import annotations

import gc
import logging
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..base.errors import Infeasible, Skipped, first_line
from ..base.pieces import Cell
from ..base.reading import files_read, refuse_undeclared
from ..model.gates import UnsupportedModelError
from ..model.integrity import differences, fingerprint, graphs_digest, shuffled
from ..plugins.method import Attribution, Method, Subject, untracked
from ..plugins.task import Problem
from .costs import PeakMemory, Stopwatch

logger = logging.getLogger(__name__)

CUDA_TOLERANCE = 1e-5
"""How far the logits of an untouched model may differ between two passes on CUDA, whose sums are not ordered."""

SMALLER = 4
"""After running out of memory, a cell is tried again with passes of this many times fewer edges ..."""

ATTEMPTS = 4
"""... so many times in all."""

FAULTS = (Exception, SystemExit)
"""What ends a cell and not the run."""

_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


@dataclass
class Outcome:
    """How a cell ended.

    Args:
        status: ``ok``, ``partial``, ``skipped``, ``infeasible``, ``failed``, ``timeout`` or ``out-of-memory``.
        reason: one line, empty where all is well.
        log: traceback or output, where there is one.
        attributions: of ``test``, ``validation`` and ``randomised`` graphs, those that there are.
        costs: seconds, forward passes, memory.
        figures: what the method says about its fit.
    """

    status: str = "ok"
    reason: str = ""
    log: str = ""
    attributions: dict[str, Attribution] = field(default_factory=dict)
    costs: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One method on one problem.

    Args:
        kind: the method's class.
        config: its configuration.
        cell: whose it is.
        problem: what it explains.
        max_edges: the most edges that one pass holds.
        randomised: test graphs that are also explained for a model with shuffled weights; 0 for none.
        track: wraps a loop in a progress bar.
    """

    kind: type[Method]
    config: Any
    cell: Cell
    problem: Problem
    max_edges: int
    randomised: int
    track: Any = untracked

    def make(self, subject: Subject) -> Method:
        """Return a new instance of the method."""
        return self.kind(self.config, subject=subject, seed=self.cell.fit_stream, track=self.track)

    def run(self) -> Outcome:
        """Run it; every exception is an outcome. When memory runs out, try again in smaller passes."""
        for max_edges in smaller_passes(self.max_edges):
            outcome = self._attempt(max_edges)
            if max_edges < self.max_edges:
                outcome.costs["max_edges"] = max_edges
            if outcome.status != "out-of-memory":
                break
            logger.warning("%s ran out of memory with at most %d edges a pass", self.kind.name, max_edges)
        return outcome

    @property
    def device(self) -> torch.device:
        """Where the graphs are."""
        return self.problem.splits["test"].graphs.device

    def _attempt(self, max_edges: int) -> Outcome:
        outcome, method = Outcome(), None
        try:
            subject = replace(self.problem.subject(), max_edges=max_edges)
            unsupported = self.kind.reason_against(subject)
            if unsupported is None and subject.train.num_graphs < self.kind.fewest_to_fit:
                there = subject.train.num_graphs
                unsupported = f"it wants at least {self.kind.fewest_to_fit} graphs to fit on; there are {there}"
            if unsupported is not None:
                return Outcome("skipped", unsupported)
            method = self.make(subject)
            with files_read() as read:
                self._explain(method, outcome)
            refuse_undeclared(method.name, read, self.kind.sources(self.config))
            outcome.figures = method.figures
            complete = outcome.attributions["test"].complete
            if complete is not None and not bool(complete.all()):
                outcome.status = "partial"
                outcome.reason = f"{int(complete.sum())} of {len(complete)} graphs finished"
            self._randomise(subject, outcome)
        except FAULTS as error:
            outcome.status, outcome.reason = status_of(error), first_line(error)
            if outcome.status in ("failed", "out-of-memory"):
                outcome.log = traceback.format_exc()
            elif method is not None:
                outcome.figures = method.figures  # also of a fit that found nothing
        return outcome

    def _explain(self, method: Method, outcome: Outcome) -> None:
        """Fit and attribute, timed apart; check the attribution, and that model and graphs are as they were.

        Costs are filled in as they arise, so that a cell that ends early still says what it cost.
        """
        problem, costs = self.problem, outcome.costs
        graphs = {name: problem.splits[name].graphs for name in ("validation", "test")}
        sample = next(graphs["validation"].parts(method.subject.max_edges)).batch
        before = fingerprint(problem.model, sample)
        data_before = [graphs_digest(split.graphs) for split in problem.splits.values()]
        with PeakMemory(self.device) as memory, torch.random.fork_rng(devices=_cuda_devices(self.device)):
            torch.manual_seed(method.seed)
            fit = Stopwatch(self.device)
            try:
                with fit:
                    self._phase("fitting")
                    method.fit()
            finally:
                costs |= {"fit_seconds": fit.seconds, "fit_forward_passes": method.forward_passes}
            for name, batch in graphs.items():
                if name == "validation" and method.decides:
                    continue
                torch.manual_seed(method.seed)
                passes = method.forward_passes
                with Stopwatch(self.device) as watch:
                    self._phase(f"explaining {name}")
                    outcome.attributions[name] = method.explain(batch)
                costs[f"{name}_seconds"] = watch.seconds
                costs[f"{name}_forward_passes"] = method.forward_passes - passes
        costs["seconds_per_explanation"] = costs["test_seconds"] / max(1, graphs["test"].num_graphs)
        costs["peak_memory_mib"] = memory.mebibytes
        tolerance = CUDA_TOLERANCE if self.device.type == "cuda" else 0.0
        if [graphs_digest(split.graphs) for split in problem.splits.values()] != data_before:
            raise RuntimeError(f"expected the graphs to be left as found; {method.name} changed them in place")
        changed = differences(before, fingerprint(problem.model, sample), tolerance)
        if changed:
            raise RuntimeError(
                f"expected the model to be left as found; {method.name} changed its {', '.join(changed)}"
            )

    def _phase(self, name: str) -> None:
        """Show what the method does, also where it shows no progress of its own."""
        for _ in self.track(iter((None,)), f"{name} · {self.kind.name}"):
            pass

    def _randomise(self, subject: Subject, outcome: Outcome) -> None:
        """Explain the first test graphs for a model with shuffled weights, too: a method that says the same of both
        does not explain the model (Adebayo et al. 2018). Where it finds nothing, there is nothing to compare."""
        test = self.problem.splits["test"].graphs
        count = min(self.randomised, test.num_graphs)
        if not count:
            return
        subject = replace(subject, model=shuffled(self.problem.model, self.cell.shuffled_stream))
        method = self.make(subject)
        with Stopwatch(self.device) as watch, torch.random.fork_rng(devices=_cuda_devices(self.device)):
            torch.manual_seed(method.seed)
            try:
                method.fit()
                outcome.attributions["randomised"] = method.explain(
                    test.select(torch.arange(count, device=test.device))
                )
            except FAULTS as error:  # the check is not the cell: what was found about the trained model stays
                if status_of(error) == "out-of-memory":
                    raise
                expected = isinstance(error, Infeasible | Skipped)
                logger.log(
                    logging.INFO if expected else logging.WARNING,
                    "%s, for a model with shuffled weights: %s",
                    self.kind.name,
                    error,
                    exc_info=not expected,
                )
                outcome.figures["randomised_failed"] = 1.0
        outcome.costs["randomised_seconds"] = watch.seconds


def smaller_passes(max_edges: int) -> Iterator[int]:
    """Yield limits to be tried one after the other while memory runs out, which is given back in between."""
    for attempt in range(ATTEMPTS):
        yield max(1, max_edges // SMALLER**attempt)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def status_of(error: BaseException) -> str:
    """Return what a cell is called that ended with ``error``."""
    if isinstance(error, Infeasible):
        return "infeasible"
    if isinstance(error, UnsupportedModelError | Skipped):
        return "skipped"
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)
    )
    return "out-of-memory" if memory else "failed"


def _cuda_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []

"""Performs the pieces of a run: cells, and the problems that they are of.

Everything goes through the results folder: :meth:`Runner.perform` does one piece of work and leaves what it found
there, and :meth:`Runner.load` reads it back. So it does not matter which process does a piece, or whether an earlier
run has done it.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from filelock import Timeout

from ..base.arrays import DamagedError
from ..base.errors import StorageError, UserError, first_line
from ..base.pieces import Cell, Piece, ProblemSpec
from ..explaining.job import FAULTS, Job, Outcome, smaller_passes, status_of
from ..plugins.method import untracked
from ..plugins.registry import METHODS
from ..plugins.task import Problem
from ..scoring.judge import Judge, score_method
from ..storing.cells import CellStore
from ..storing.models import ModelCache
from ..storing.records import Record, Result, StoredScores
from ..storing.snapshot import stored_problem
from .foreign import check
from .keys import Keys, score_key
from .options import Overwrite
from .plan import Plan
from .problems import Problems
from .provenance import git_commit
from .statuses import OVERWRITE, REFUSED, SCORED

logger = logging.getLogger(__name__)


class Runner:
    """Performs the pieces of a plan in a results folder.

    Args:
        plan: what to run.
        store: the results folder.
        cache: trained models.
        overwrite: ``failed`` keeps what ended well, ``never`` every record, ``always`` none.
        track: wraps a loop in a progress bar.
    """

    def __init__(
        self, plan: Plan, store: CellStore, cache: ModelCache, overwrite: Overwrite = "failed", track: Any = untracked
    ) -> None:
        self.plan = plan
        self.configs = plan.configs()
        self.keys = Keys(plan)
        self.store = store
        self.cache = cache
        self.kept = OVERWRITE[overwrite]
        self.track = track
        self.device = torch.device(plan.device)
        self.problems = Problems(plan, self.keys, cache, lambda *given, **named: self.track(*given, **named))
        #: Seconds of building, explaining and scoring so far, without what keeping it takes; and how many cells ran.
        self.worked, self.ran = 0.0, 0
        self._finished: dict[Cell, Result] = {}
        self._last: tuple[ProblemSpec, StoredScores] | None = None  # of one problem: there may be thousands

    def problem(self, spec: ProblemSpec) -> Problem:
        """Return a problem, built or as built last."""
        stored = self.load_problem(spec)
        return self.problems.get(spec, stored.findings if stored else None)

    def finished(self, piece: Piece) -> bool:
        """Say whether nothing is left to do for a piece; what was read for it is kept until it is asked for."""
        if not isinstance(piece, Cell):
            stored = self.load_problem(piece) if self.kept else None
            if stored is None or stored.status != "ok":
                return stored is not None and stored.status == REFUSED
            return self.store.problem(self.keys[piece]) is not None
        key = self.keys[piece]
        record = self.store.record(key)
        if record is None or record.status not in self.kept:
            return False
        if record.status not in SCORED:
            self._finished[piece] = Result(piece, record, [], self.store.log(key))
            return True
        scores = self.store.scores(key, score_key(key))
        if scores is None or scores.status != "ok" or not self.store.sound(key, record):
            return False
        self._finished[piece] = Result.of(piece, record, scores)
        return True

    @contextmanager
    def _working(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.worked += time.perf_counter() - start

    def perform(self, piece: Piece, max_edges: int | None = None, *, wait: bool = True) -> bool:
        """Do one piece of work, unless it is done; leave what came out in the results folder.

        Args:
            piece: what to do.
            max_edges: fewer than the plan's, after memory ran out.
            wait: whether to wait while another process does it.

        Returns:
            False where another process does it and this one was not to wait.

        Raises:
            StorageError: when the folder cannot be written. Every other failure is a record.
        """
        key = self.keys[piece]
        limit = min(max_edges or self.plan.max_edges, self.plan.max_edges)
        try:
            with self.store.lock(key).acquire(timeout=-1 if wait else 0):
                if isinstance(piece, Cell):
                    self._perform_cell(piece, key, limit)
                elif not self.finished(piece):
                    self._score_problem(piece, key, limit)
        except Timeout:
            return False
        return True

    def end(self, piece: Piece, status: str, reason: str, log: str = "") -> None:
        """Record how a piece ended that could not record it itself."""
        key = self.keys[piece]
        with self.store.lock(key):
            if isinstance(piece, Cell):
                self._save(piece, key, Outcome(status, reason, log))
            else:
                self.store.save_scores(key, score_key(key), StoredScores(status=status, reason=reason, log=log))

    def status(self, cell: Cell) -> str:
        """Return how a cell ended, as stored."""
        record = self.store.record(self.keys[cell])
        return record.status if record is not None else "failed"

    def current(self, cell: Cell) -> Result | None:
        """Return what is stored for a cell; None where today's code would run or score it anew."""
        key = self.keys[cell]
        record = self.store.record(key)
        if record is None or (record.status in SCORED and self.store.scores(key, score_key(key)) is None):
            return None
        return self.load(cell)

    def load(self, cell: Cell) -> Result:
        """Return what is stored for a cell."""
        if cell in self._finished:
            return self._finished.pop(cell)
        key = self.keys[cell]
        record = self.store.record(key)
        if record is None:
            reason = f"expected its record in {self.store.cells / key}; it is not there: run it again"
            record = Record.failed(reason)
        if record.status not in SCORED:
            return Result(cell, record, [], self.store.log(key))
        stored = self.store.scores(key, score_key(key))
        reason = f"expected its scores in {self.store.cells / key}; they are not there: run it again"
        return Result.of(cell, record, stored or StoredScores(status="failed", reason=reason))

    def load_problem(self, spec: ProblemSpec) -> StoredScores | None:
        """Return what is stored for a problem."""
        if self._last is None or self._last[0] != spec:
            key = self.keys[spec]
            stored = self.store.scores(key, score_key(key))
            if stored is None or stored.status != "ok":  # another process may write better ones
                return stored
            self._last = (spec, stored)
        return self._last[1]

    def rescore(self, keys: Sequence[str], but: Container[Cell] = ()) -> Iterator[Result]:
        """Yield the results of the plan's cells from the records ``keys``, scored anew; no method is run.

        Cells without a record, of an interrupted run, are left out, and so are those of ``but``.
        """
        for cell, key in zip(self.plan.cells(), keys, strict=True):
            if cell in but:
                continue
            with self.store.lock(key):
                record = self.store.record(key)
                if record is None:
                    continue
                if record.status not in SCORED:
                    yield Result(cell, record, [])
                    continue
                try:
                    yield Result.of(cell, record, self._score(cell, key, record, self.plan.max_edges, found=True))
                except DamagedError as error:
                    yield Result.of(cell, record, StoredScores(status="failed", reason=f"scoring: {error}"))

    def rescore_problem(self, spec: ProblemSpec) -> StoredScores | None:
        """Score a problem's controls anew, and return them."""
        key = self.keys[spec]
        with self.store.lock(key):
            self._score_problem(spec, key, self.plan.max_edges)
        return self.load_problem(spec)

    def _score_problem(self, spec: ProblemSpec, key: str, max_edges: int) -> None:
        def score(limit: int) -> StoredScores:
            with self._working(), Judge(self.problem(spec), limit) as judge:
                figures = {**judge.problem.figures, "gold_confirmed": judge.problem.gold_confirmed}
                figures |= judge.predicted_without_messages() | judge.gold_alone()
                rows, ablations, found = judge.problem_controls(), judge.ablations(), judge.problem.findings
                logits = {name: recording.logits for name, recording in judge.recordings.items()}
                kept = stored_problem(judge.problem, spec, logits)
            self.store.save_problem(key, kept)
            return StoredScores(rows, figures=figures, ablations=ablations, findings=found)

        self.store.save_scores(key, score_key(key), _scored(score, max_edges))
        self._last = None  # it was read to build the problem

    def _perform_cell(self, cell: Cell, key: str, max_edges: int) -> None:
        record = self.store.record(key)
        kept = record is not None and record.status in self.kept
        if record is None or not kept:
            record = self._save(cell, key, self._execute(cell, max_edges))
        if record.status not in SCORED or (kept and self.finished(cell)):
            return
        try:
            self._score(cell, key, record, max_edges, found=kept)
        except DamagedError as error:
            if not kept:
                raise
            logger.warning("%s cannot be used, it is made again: %s", self.store.cells / key, error)
            record = self._save(cell, key, self._execute(cell, max_edges))
            if record.status in SCORED:
                self._score(cell, key, record, max_edges)

    def _execute(self, cell: Cell, max_edges: int) -> Outcome:
        """Run a cell, whatever happens."""
        kind, config = METHODS[cell.method], self.configs[cell.method]
        self.ran += 1
        with self._working():
            try:
                problem = self.problem(cell.problem)
            except StorageError:
                raise
            except FAULTS as error:
                return Outcome(status_of(error), first_line(error), traceback.format_exc())
            outcome = Job(kind, config, cell, problem, max_edges, self.plan.randomised_graphs, self.track).run()
        if max_edges < self.plan.max_edges:
            outcome.costs.setdefault("max_edges", max_edges)
        if outcome.status in ("failed", "out-of-memory"):
            self.problems.forget()  # whatever the method did to the model or the graphs, the next one gets new ones
        return outcome

    def _save(self, cell: Cell, key: str, outcome: Outcome) -> Record:
        record = {
            "status": outcome.status,
            "reason": outcome.reason,
            "costs": outcome.costs,
            "figures": outcome.figures,
            "content": self.keys.cell_content(cell),
            "commit": git_commit(),
        }
        return self.store.save(key, record, outcome.attributions, outcome.log)

    def _score(self, cell: Cell, key: str, record: Record, max_edges: int, *, found: bool = False) -> StoredScores:
        """Score a record and keep the scores; a scorer that fails leaves the attributions as they are.

        Args:
            cell, key, record: what to score.
            max_edges: the most edges of a pass.
            found: whether the record was there before, so that it may be anybody's.

        Raises:
            DamagedError: when the attributions are not those of this cell.
        """
        attributions = self.store.attributions(key, record, self.device)

        def score(limit: int) -> StoredScores:
            with self._working():
                problem = self.problem(cell.problem)
                if found:
                    check(attributions, problem)
                return StoredScores(score_method(cell, problem, attributions, record.figures, limit))

        stored = _scored(score, max_edges)
        if stored.status != "ok":
            self.problems.forget()
            stored = replace(stored, reason=f"scoring: {stored.reason}")
        self.store.save_scores(key, score_key(key), stored)
        return stored


def _scored(score: Callable[[int], StoredScores], max_edges: int) -> StoredScores:
    """Return what a scorer returns, or how it ended; when memory runs out, try again in smaller passes."""
    for limit in smaller_passes(max_edges):
        try:
            return score(limit)
        except (StorageError, DamagedError):
            raise
        except UserError as error:
            return StoredScores(status=REFUSED, reason=first_line(error))
        except FAULTS as error:
            stored = StoredScores(status=status_of(error), reason=first_line(error), log=traceback.format_exc())
        if stored.status != "out-of-memory":
            break
    return stored

"""The problems of a run: built one at a time, with their trained models kept, and refused where data drift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ..base.errors import UserError
from ..base.pieces import ProblemSpec
from ..base.reading import files_read, refuse_undeclared
from ..examining.examination import Findings
from ..explaining.job import FAULTS
from ..plugins.registry import TASKS
from ..plugins.task import Problem, TaskSeeds, Workshop, build_problem
from ..storing.models import ModelCache
from .keys import Keys
from .plan import Plan


class Problems:
    """Builds the problems of a plan, one at a time.

    Args:
        plan: of the run.
        keys: of its pieces.
        cache: trained models.
        track: wraps a loop in a progress bar.
    """

    def __init__(self, plan: Plan, keys: Keys, cache: ModelCache, track: Callable[..., Any]) -> None:
        self._configs = plan.configs()
        self._device = torch.device(plan.device)
        self._keys = keys
        self._cache = cache
        self._track = track
        self._last: tuple[ProblemSpec, Problem | BaseException] | None = None

    def get(self, spec: ProblemSpec, known: Findings | None) -> Problem:
        """Return a problem; one that failed to build fails again at once.

        Args:
            spec: which.
            known: what examining it has found, where that is stored.

        Raises:
            UserError: when it is none, reads files that it does not declare, or has other data than the last time.
        """
        if self._last is None or self._last[0] != spec:
            try:
                self._last = (spec, self._build(spec, known))
            except FAULTS as error:
                self._last = (spec, error)
        found = self._last[1]
        if isinstance(found, BaseException):
            raise found
        return found

    def forget(self) -> None:
        """Build anew the next time: whatever a method did to model or graphs, the next one gets new ones."""
        self._last = None

    def _build(self, spec: ProblemSpec, known: Findings | None) -> Problem:
        key = self._keys.model(spec)
        workshop = Workshop(
            self._device, lambda model, train: self._cache.load_or_train(key, model, train), self._track
        )
        with files_read() as read:
            task = TASKS[spec.task](self._configs[spec.task])
        refuse_undeclared(task.name, read, task.sources() if read else {})
        built = build_problem(task, TaskSeeds(*spec.seeds), workshop)
        data = built.data()
        if not (self._cache.is_of(key, data) and (known is None or known.data == data)):
            raise UserError(
                f"expected build() of {spec.task} to make the same data every time; its graphs or labels are not "
                "those of the trained model or of what is stored: draw with generator(), sort what comes from sets, "
                "and choose another --out and --cache-dir"
            )
        return replace(built, known=known)

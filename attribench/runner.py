"""Runs the grid of cells (task, method, data seed, model seed, fit seed) and keeps each one's record."""

from __future__ import annotations

import dataclasses
import logging
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .costs import PeakMemory, Stopwatch
from .errors import Infeasible
from .gates import UnsupportedModelError
from .integrity import differences, fingerprint, graphs_digest, shuffled
from .method import Attribution, Method
from .plan import Cell, Plan, git_commit
from .progress import Progress
from .registry import METHODS, TASKS
from .scoring import Judge, Scores
from .seeds import derive
from .settings import as_dict
from .store import COMPUTING, SCORING, CellStore, ModelCache, digest, harness_digest, library_versions, plugin_digest
from .task import Problem, TaskSeeds, Workshop, build_problem

logger = logging.getLogger(__name__)

FINISHED = ("ok", "partial", "skipped", "infeasible")
"""Statuses that are not run again."""

CUDA_TOLERANCE = 1e-5
"""How far the logits of an untouched model may differ between two passes on CUDA, whose sums are not ordered."""


@dataclass
class Result:
    """A cell's record with the rows scored for it; ``problem`` rows stand under the problem's first cell."""

    cell: Cell
    record: dict[str, Any]
    rows: list[Scores]


@dataclass
class ProblemResult:
    """A problem's own figures and its controls."""

    task: str
    data_seed: int
    model_seed: int
    figures: dict[str, Any]
    ablations: list[float]
    rows: list[Scores]


class Runner:
    """Runs a plan into a results folder."""

    def __init__(self, plan: Plan, out: Path, cache: ModelCache, progress: Progress) -> None:
        self.plan = plan
        self.configs = plan.configs()
        self.store = CellStore(out)
        self.cache = cache
        self.progress = progress
        self.device = torch.device(plan.device)
        self._built: tuple[tuple[str, int, int], Problem | Exception] | None = None

    def problem_content(self, task: str, data_seed: int, model_seed: int) -> dict[str, Any]:
        """Return what decides a problem."""
        return {
            "task": task,
            "task_config": as_dict(self.configs[task]),
            "task_source": plugin_digest(TASKS[task]),
            "data_seed": data_seed,
            "model_seed": model_seed,
            "harness": harness_digest(COMPUTING),
            "versions": library_versions(),
            "device": _device_name(self.device),
            "threads": self.plan.threads,
        }

    def cell_content(self, cell: Cell) -> dict[str, Any]:
        """Return what decides a cell's attributions."""
        return {
            **self.problem_content(*cell.problem),
            "method": cell.method,
            "method_config": as_dict(self.configs[cell.method]),
            "method_source": plugin_digest(METHODS[cell.method]),
            "fit_seed": cell.fit_seed,
            "randomised_graphs": self.plan.randomised_graphs,
        }

    def problem(self, task: str, data_seed: int, model_seed: int) -> Problem:
        """Build a problem, or return the one built last. A problem that failed to build fails again at once."""
        key = (task, data_seed, model_seed)
        if self._built is None or self._built[0] != key:
            seeds = TaskSeeds(data_seed, model_seed)
            content = digest(self.problem_content(task, data_seed, model_seed))
            workshop = Workshop(
                self.device,
                lambda model, train: self.cache.load_or_train(content, model, train),
                self.progress.track,
            )
            try:
                self._built = (key, build_problem(TASKS[task](self.configs[task]), seeds, workshop))
            except Exception as error:
                self._built = (key, error)
        built = self._built[1]
        if isinstance(built, Exception):
            raise built
        return built

    def run(self) -> Iterator[Result]:
        """Yield every cell's result, running those that are not finished."""
        for cell in self.progress.cells(self.plan.cells(), lambda c: f"{c.task} · {c.method} · seed {c.data_seed}"):
            yield self.result(cell)

    def rescore(self, keys: Sequence[str | None]) -> Iterator[Result]:
        """Yield the results of the plan's cells from the records ``keys``, scored anew; no method is run.

        Cells without a record, of an interrupted run, are left out.
        """
        pairs = list(zip(self.plan.cells(), keys, strict=True))
        for cell, key in self.progress.cells(pairs, lambda pair: f"scoring {pair[0].task} · {pair[0].method}"):
            record = self.store.record(key) if key else None
            if key and record:
                yield self._scored(cell, key, record, rescore=True)

    def keys(self) -> list[str]:
        """Return the keys of the plan's cells."""
        return [digest(self.cell_content(cell)) for cell in self.plan.cells()]

    def result(self, cell: Cell) -> Result:
        """Return a cell's result: from the store where it is finished and readable, else by running it."""
        content = self.cell_content(cell)
        key = digest(content)
        record = self.store.record(key)
        if record is not None and record.get("status") in FINISHED:
            result = self._scored(cell, key, record)
            if result.record["status"] != "failed":
                return result
            logger.warning("the record of %s · %s cannot be used (%s)", cell.task, cell.method, result.record["reason"])
        return self._scored(cell, key, self._execute(cell, content, key))

    def _scored(self, cell: Cell, key: str, record: dict[str, Any], *, rescore: bool = False) -> Result:
        """Return a record with its scores; where they cannot be computed the cell has failed."""
        if record["status"] not in ("ok", "partial"):
            return Result(cell, record, [])
        try:
            return Result(cell, record, self._scores(cell, key, record, rescore))
        except Exception as error:
            self._built = None
            logger.debug("scoring failed", exc_info=True)
            return Result(cell, {**record, "status": "failed", "reason": f"scoring: {_first_line(error)}"}, [])

    def _execute(self, cell: Cell, content: dict[str, Any], key: str) -> dict[str, Any]:
        """Run one cell and store its record, whatever happens."""
        attributions: dict[str, Attribution] = {}
        costs: dict[str, Any] = {}
        figures: dict[str, float] = {}
        status, reason, log = "ok", "", ""
        try:
            problem = self.problem(*cell.problem)
            subject = problem.subject()
            unsupported = METHODS[cell.method].supports(subject)
            if unsupported is None:
                method = METHODS[cell.method](
                    self.configs[cell.method],
                    subject=subject,
                    seed=derive("fit", cell.base, cell.data_seed, cell.model_seed, cell.fit_seed),
                    track=self.progress.track,
                )
                attributions = self._explain(method, problem, costs)
                figures = method.figures
                complete = attributions["test"].complete
                if complete is not None and not bool(complete.all()):
                    status, reason = "partial", f"{int(complete.sum())} of {len(complete)} graphs finished"
                self._randomise(cell, problem, attributions, figures, costs)
            else:
                status, reason = "skipped", unsupported
        except Infeasible as error:
            status, reason = "infeasible", str(error)
        except UnsupportedModelError as error:
            status, reason = "skipped", str(error)
        except Exception as error:
            status, reason = "failed", _first_line(error)
            log = traceback.format_exc()
            self._built = None  # whatever the method did to the model or the graphs, the next one gets new ones
        record = {
            "status": status,
            "reason": reason,
            "costs": costs,
            "figures": figures,
            "content": content,
            "commit": git_commit(),
        }
        self.store.save(key, record, attributions, log)
        stored = self.store.record(key)
        assert stored is not None
        return stored

    def _explain(self, method: Method, problem: Problem, costs: dict[str, Any]) -> dict[str, Attribution]:
        """Fit and attribute, timed apart; check the attribution, and that the model is as it was.

        ``costs`` is filled as they arise, so that a cell that ends early still says what it cost.
        """
        graphs = {name: problem.splits[name].graphs for name in ("validation", "test")}
        before = fingerprint(problem.model, graphs["validation"])
        data_before = [graphs_digest(split.graphs) for split in problem.splits.values()]
        attributions: dict[str, Attribution] = {}
        with PeakMemory(self.device) as memory, torch.random.fork_rng(devices=_cuda_devices(self.device)):
            torch.manual_seed(method.seed)
            fit = Stopwatch(self.device)
            try:
                with fit:
                    method.fit()
            finally:
                costs |= {"fit_seconds": fit.seconds, "fit_forward_passes": method.forward_passes}
            for name, batch in graphs.items():
                if name == "validation" and method.decides:
                    continue
                torch.manual_seed(method.seed)
                passes = method.forward_passes
                with Stopwatch(self.device) as watch:
                    attributions[name] = method.attribute(batch)
                attributions[name].check(batch, method.subject.num_layers)
                costs[f"{name}_seconds"] = watch.seconds
                costs[f"{name}_forward_passes"] = method.forward_passes - passes
        costs["seconds_per_explanation"] = costs["test_seconds"] / max(1, graphs["test"].num_graphs)
        costs["peak_memory_mib"] = memory.mebibytes
        tolerance = CUDA_TOLERANCE if self.device.type == "cuda" else 0.0
        if [graphs_digest(split.graphs) for split in problem.splits.values()] != data_before:
            raise RuntimeError(f"expected the graphs to be left as found; {method.name} changed them in place")
        changed = differences(before, fingerprint(problem.model, graphs["validation"]), tolerance)
        if changed:
            raise RuntimeError(
                f"expected the model to be left as found; {method.name} changed its {', '.join(changed)}"
            )
        return attributions

    def _randomise(
        self,
        cell: Cell,
        problem: Problem,
        attributions: dict[str, Attribution],
        figures: dict[str, float],
        costs: dict[str, Any],
    ) -> None:
        """Explain the first test graphs for a model with shuffled weights, too: a method that says the same of both
        does not explain the model (Adebayo et al. 2018). Where it finds nothing, there is nothing to compare."""
        test = problem.splits["test"].graphs
        count = min(self.plan.randomised_graphs, test.num_graphs)
        if not count:
            return
        model = shuffled(problem.model, derive("shuffled", cell.task, cell.data_seed, cell.model_seed))
        subject = replace(problem.subject(), model=model)
        seed = derive("fit", cell.base, cell.data_seed, cell.model_seed, cell.fit_seed)
        method = METHODS[cell.method](self.configs[cell.method], subject=subject, seed=seed, track=self.progress.track)
        with Stopwatch(self.device) as watch, torch.random.fork_rng(devices=_cuda_devices(self.device)):
            torch.manual_seed(seed)
            try:
                method.fit()
                graphs = test.select(torch.arange(count, device=test.device))
                attributions["randomised"] = method.attribute(graphs)
                attributions["randomised"].check(graphs, subject.num_layers)
            except Exception as error:  # the check is not the cell: what was found about the trained model stays
                expected = isinstance(error, Infeasible)
                what = "%s on %s, for a model with shuffled weights: %s"
                logger.log(
                    logging.INFO if expected else logging.WARNING,
                    what,
                    cell.method,
                    cell.task,
                    error,
                    exc_info=not expected,
                )
                attributions.pop("randomised", None)
                figures["randomised_failed"] = 1.0
        costs["randomised_seconds"] = watch.seconds

    def _scores(self, cell: Cell, key: str, record: dict[str, Any], rescore: bool) -> list[Scores]:
        score_key = digest({"harness": harness_digest(SCORING), "attributions": key})
        stored = None if rescore else self.store.scores(key, score_key)
        if stored is None:
            attributions = self.store.attributions(key, record, self.device)
            seed = derive("controls", cell.task, cell.data_seed, cell.model_seed, cell.fit_seed)
            problem = self.problem(*cell.problem)
            complete = attributions["test"].complete
            if complete is not None:
                problem, attributions = _finished_only(problem, attributions, complete)
            if complete is not None and not bool(complete.any()):
                rows = [Scores(cell.method, "method", {})]
            else:
                with Judge(problem) as judge:
                    rows = [judge.score(cell.method, attributions), *judge.controls(cell.method, attributions, seed)]
            rows[0].figures |= {f"fit_{name}": value for name, value in record["figures"].items()}
            if complete is not None:
                for row in rows:
                    _name_unfinished(row, complete)
            self.store.save_scores(key, score_key, [dataclasses.asdict(row) for row in rows])
            return rows
        return [Scores(**row) for row in stored]

    def problem_results(self, results: Sequence[Result]) -> Iterator[ProblemResult]:
        """Yield figures and controls of the problems of ``results``; one that cannot be built has none."""
        for task, data_seed, model_seed in dict.fromkeys(result.cell.problem for result in results):
            content = self.problem_content(task, data_seed, model_seed)
            key = "problem-" + digest(content)
            score_key = digest({"harness": harness_digest(SCORING), "problem": key})
            stored = self.store.scores(key, score_key)
            if stored is None:
                try:
                    stored = [self._score_problem(self.problem(task, data_seed, model_seed))]
                except Exception:
                    continue
                self.store.save_scores(key, score_key, stored)
            rows = [Scores(**row) for row in stored[0]["rows"]]
            yield ProblemResult(task, data_seed, model_seed, stored[0]["figures"], stored[0]["ablations"], rows)

    def _score_problem(self, problem: Problem) -> dict[str, Any]:
        with Judge(problem) as judge:
            rows, ablations = judge.problem_controls(), judge.ablations()
            empty = judge.predicted_without_messages()
        figures = {**problem.figures, "gold_confirmed": problem.gold_confirmed, **empty}
        return {"figures": figures, "ablations": ablations, "rows": [dataclasses.asdict(row) for row in rows]}


def _finished_only(
    problem: Problem, attributions: dict[str, Attribution], complete: torch.Tensor
) -> tuple[Problem, dict[str, Attribution]]:
    """Return problem and attributions with only those test graphs that were finished."""
    index = complete.nonzero()[:, 0]
    test = problem.splits["test"]
    selected = {**attributions, "test": attributions["test"].select(test.graphs, index)}
    if not bool(complete.all()):
        selected.pop("randomised", None)
    return replace(problem, splits={**problem.splits, "test": test.select(index)}), selected


def _name_unfinished(row: Scores, complete: torch.Tensor) -> None:
    """Number a row's graphs as in the whole test split, and add those that were not finished."""
    row.figures["coverage"] = float(complete.double().mean())
    unfinished = (~complete).nonzero()[:, 0].tolist()
    row.per_graph = {name: [*values, *[None] * len(unfinished)] for name, values in row.per_graph.items()}
    row.per_graph["graph"] = [*complete.nonzero()[:, 0].tolist(), *unfinished]
    row.per_graph["complete"] = [*[True] * (len(complete) - len(unfinished)), *[False] * len(unfinished)]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _cuda_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []

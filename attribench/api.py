"""What the commands do, as functions: run a plan, score a folder again, and the tables of a folder.

Heavy imports happen here and not in the command line, so that ``--help`` answers at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from .base.arrays import DamagedError
from .base.errors import StorageError, UserError
from .base.files import remove_old_drafts
from .base.pieces import Cell, ProblemSpec
from .base.progress import Progress, Tracker
from .plugins.configs import Overrides, as_dict, as_overrides
from .plugins.registry import TASKS, load_plugin
from .running import cleaning
from .running.execution import Execution
from .running.expected import Expected
from .running.folder import add_run, data_dirs, known_part, read_plans, refuse_conflicts
from .running.here import Here
from .running.options import RunOptions, results_folder, run_options
from .running.outlook import Outlook, outlook
from .running.plan import Plan, select_device
from .running.planning import make_plan
from .running.pool import Workers, default_jobs
from .running.provenance import provenance
from .running.runner import Runner
from .running.statuses import REFUSED
from .storing.cells import CellStore
from .storing.models import ModelCache
from .storing.records import About, ProblemResult, Result, StoredScores
from .storing.runs import NAME, Entry, read_entries
from .telling.results import Ending, Results
from .telling.tables import Report

WELL = ("ok", "partial", "skipped")
"""Statuses of cells that are no failure."""


def run(
    *,
    settings: Overrides | None = None,
    file: Overrides | None = None,
    progress: Progress | bool = True,
    **options: Any,
) -> Results:
    """Run methods on tasks, score them, and compare; finished cells of the folder are kept.

    Args:
        settings: options of tasks and methods by their names: ``{"toy": {"colours": 8}}``.
        file: the tables of a configuration file; what is given otherwise wins.
        progress: where to show it; True for standard error.
        **options: those of :class:`~attribench.running.options.RunOptions`, which are those of the command line:
            ``methods="graphmask,gnnexplainer"``, ``task="toy"``, ``seeds=3``, ``out="results/mine"``, ``jobs=2``, ...

    Returns:
        The results folder: by default ``results/TASKS``. Interrupted, what is done is in it.

    Raises:
        UserError: for bad options, or where the folder has cells of the run under another configuration.
    """
    told, plan, folder = _planned(file, settings, options)
    with _threads():
        return Results(folder, _run(plan, folder, told, _shown(progress)))


def dry_run(
    *, settings: Overrides | None = None, file: Overrides | None = None, **options: Any
) -> tuple[Path, list[Outlook]]:
    """Return the folder and what :func:`run` would find there of every cell; nothing is run and nothing written.

    Args:
        settings, file, **options: as for :func:`run`.

    Raises:
        UserError: as for :func:`run`.
    """
    told, plan, folder = _planned(file, settings, options)
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise StorageError(f"expected a folder; {there} is a file: choose another with --out")
    runner = Runner(plan, CellStore(folder), ModelCache(_cache_folder(told.cache_dir)), told.overwrite)
    entries = read_entries(folder / NAME) if (folder / NAME).exists() else []
    refuse_conflicts(folder, plan, entries)
    return folder, outlook(runner, entries)


def unused(
    folders: Sequence[Path | str],
    models: bool = False,
    plugins: Sequence[str] = (),
    data_dir: str | None = None,
    cache_dir: str | None = None,
) -> list[Path]:
    """Return the cells, problems, files of given models and, if asked, trained models that no plan of folders uses.

    Raises:
        UserError: when one is no results folder, or when models are asked for and a run's plugins are not named.
    """
    for source in plugins:
        load_plugin(source)
    try:
        cache = ModelCache(_cache_folder(cache_dir)) if models else None
        return cleaning.unused([Path(folder) for folder in folders], data_dir, cache)
    except DamagedError as error:
        raise UserError(f"expected a folder that `run` wrote; {error}") from error


def _planned(
    file: Overrides | None, settings: Overrides | None, options: Mapping[str, Any]
) -> tuple[RunOptions, Plan, Path]:
    tables = as_overrides(file, "tables of a file")
    settings = as_overrides(settings, "settings")
    told = run_options(tables.pop("run", {}), **options)
    plan = make_plan(told, tables, settings)
    return told, plan, results_folder(told.out, plan.tasks)


def _cache_folder(given: str | None) -> Path | None:
    return Path(given) if given else None


def load(folder: Path | str) -> Results:
    """Return a results folder, with its tables as data frames and its attributions by method and graph.

    No code is run and no other path is read because a file of it says so.

    Raises:
        UserError: when it is none.
    """
    return Results(folder)


def _shown(progress: Progress | bool) -> Progress:
    return progress if isinstance(progress, Progress) else Progress(Console(stderr=True, quiet=not progress))


@contextmanager
def _threads() -> Iterator[None]:
    """Leave torch's number of threads as it was found."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(plan: Plan, folder: Path, options: RunOptions, progress: Progress) -> Ending:
    """Run a plan in a results folder and write its tables."""
    torch.set_num_threads(plan.threads)
    jobs = default_jobs(plan) if options.jobs is None else options.jobs
    cache = ModelCache(_cache_folder(options.cache_dir))
    runner = Runner(plan, CellStore(folder), cache, options.overwrite)
    configuration = {name: as_dict(config) for name, config in runner.configs.items()}
    extra = {"jobs": jobs, **provenance(plan.device), "configuration": configuration}
    keys = [runner.keys[cell] for cell in plan.cells()]
    others = add_run(folder, plan, keys, about(plan), extra)
    remove_old_drafts(folder, cache.folder)
    done: dict[Cell, Result] = {}
    expected = Expected(cache.folder.parent / "seconds.json", runner.configs, plan.overrides)
    with progress:
        timeout, overwrite = options.cell_timeout, options.overwrite
        performer = Workers(runner, progress, jobs, timeout, overwrite) if jobs else Here(runner, progress)
        execution = Execution(runner, performer, expected)
        try:
            for cell in execution.cells(progress):
                done[cell] = runner.load(cell)  # read while there is time
        except KeyboardInterrupt:
            pass  # what is done is kept and told
        finally:
            expected.save()
    start, planned = time.monotonic(), plan.cells()
    results = [done[cell] for cell in planned if cell in done]
    problems = {spec: runner.load_problem(spec) for spec in plan.problems()}
    tables = _Tables(folder, results, problems, about(plan))
    for entry in reversed(others):
        tables.add(entry, plan, Runner, cache)
    ending = tables.ending(results, problems, len(done), len(planned))
    taken = {"there": execution.seconds, "worked": execution.worked, "tables": time.monotonic() - start}
    return replace(ending, seconds=taken)


def score(
    folder: Path | str,
    plugins: Sequence[str] = (),
    data_dir: str | None = None,
    cache_dir: str | None = None,
    progress: Progress | bool = True,
) -> Results:
    """Score the stored attributions of a results folder again, without running a method, and write its tables.

    Args:
        folder: results folder.
        plugins: those of its runs, which are imported; the folder cannot name any.
        data_dir: folder of data of its runs; the folder cannot name one either.
        cache_dir: folder of trained models.
        progress: where to show it; True for standard error.

    Raises:
        UserError: when it is no results folder.
    """
    for source in plugins:
        load_plugin(source)
    with _threads():
        return Results(folder, _score(Path(folder), list(plugins), data_dir, cache_dir, _shown(progress)))


def _score(folder: Path, plugins: list[str], data_dir: str | None, cache_dir: str | None, progress: Progress) -> Ending:
    plans = read_plans(folder / NAME, plugins, data_dir)
    for plan, _ in plans:
        select_device(plan.device)
    cache, total = ModelCache(_cache_folder(cache_dir)), sum(len(keys) for _, keys in plans)
    results: dict[Cell, Result] = {}
    problems: dict[ProblemSpec, StoredScores | None] = {}
    said: dict[str, About] = {}
    with progress:
        for plan, keys in plans:
            torch.set_num_threads(plan.threads)
            runner = Runner(plan, CellStore(folder), cache)
            runner.track = Tracker(lambda *report: progress.phase(0, *report))
            for result in runner.rescore(keys, but=results):
                results[result.cell] = result
                progress.overall(f"scoring {result.cell.task} · {result.cell.method}", len(results), total)
            for spec in plan.problems():
                if spec not in problems:
                    problems[spec] = runner.rescore_problem(spec)
            said = {**about(plan), **said}
    tables = _Tables(folder, list(results.values()), problems, said)
    return tables.ending(list(results.values()), problems, len(results), len(results))


def about(plan: Plan) -> dict[str, About]:
    """Return what the tasks of a plan say of themselves."""
    configs = plan.configs()
    tasks = {name: TASKS[name](configs[name]) for name in plan.tasks}
    return {name: About(task.summary(), task.published(), task.meanings) for name, task in tasks.items()}


class _Tables:
    """The tables of a folder, from the results of a command and those that other commands left."""

    def __init__(
        self,
        folder: Path,
        results: Sequence[Result],
        problems: Mapping[ProblemSpec, StoredScores | None],
        said: Mapping[str, About],
    ) -> None:
        self._folder = folder
        self._results = {result.cell: result for result in results}
        self._problems = dict(problems)
        self._about = dict(said)
        self._left_out: dict[str, int] = {}

    def add(self, entry: Entry, given: Plan, make: type[Runner], cache: ModelCache) -> None:
        """Add the cells of another run: those that today's code would not make anew."""
        plan, unknown = known_part(entry, data_dirs(given))
        self._leave_out("whose --plugin or --data-dir this command does not name, or whose device is not here", unknown)
        if plan is None:
            return
        runner = make(plan, CellStore(self._folder), cache)
        stale = 0
        for cell in plan.cells():
            if cell in self._results:
                continue
            result = runner.current(cell)
            if result is not None:
                self._results[cell] = result
            else:  # one without a record was never run
                stale += runner.keys[cell] not in entry.keys or runner.store.record(runner.keys[cell]) is not None
        self._leave_out("which today's code would make anew: run their command again", stale)
        for spec in plan.problems():
            if spec not in self._problems:
                self._problems[spec] = runner.load_problem(spec)
        self._about = {**about(plan), **self._about}

    def _leave_out(self, why: str, count: int) -> None:
        if count:
            self._left_out[why] = self._left_out.get(why, 0) + count

    def ending(
        self,
        results: Iterable[Result],
        problems: Mapping[ProblemSpec, StoredScores | None],
        done: int,
        planned: int,
    ) -> Ending:
        """Write the tables, and return how a command ended."""
        ordered = sorted(self._results.values(), key=lambda result: _place(result.cell))
        told: list[ProblemResult] = [
            ProblemResult.of(spec, stored)
            for spec, stored in sorted(self._problems.items(), key=lambda pair: (pair[0].task, *pair[0].seeds))
            if stored is not None and stored.status == "ok"
        ]
        report = Report(ordered, told, self._about)
        if ordered:
            report.write(self._folder)
        refused = {g.task: stored.reason for g, stored in problems.items() if stored and stored.status == REFUSED}
        well = all(result.record.status in WELL for result in results)
        return Ending(report, well, refused, self._left_out, done, planned)


def _place(cell: Cell) -> tuple[Any, ...]:
    return cell.task, cell.base, cell.method, cell.data_seed, cell.model_seed, cell.fit_seed

"""The command line. Heavy imports happen inside the commands, so that ``--help`` answers at once."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .base.errors import UserError
from .cli_options import CacheDir, DataDir, Device, Jobs, Methods, Plugins, Threads, Version, option
from .running.options import results_folder, run_options
from .telling.console import console, say
from .telling.ending import EXIT_BAD_INPUT, EXIT_INTERRUPTED, tell_ending

if TYPE_CHECKING:
    from .base.progress import Progress

app = typer.Typer(
    help="Find out which attribution method for graph neural networks tells the truth about a model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes as long to import as all else of a help page
)


_UsageError: type[Any] = typer.BadParameter.__bases__[0]  # click's, which typer may bring along under a name of its own


@app.callback()
def _main(version: Version = False) -> None:
    """Take options that come before a command."""


@app.command()
def run(
    methods: Methods = None,
    task: Annotated[list[str] | None, option("task")] = None,
    seeds: Annotated[int | None, option("seeds")] = None,
    vary: Annotated[list[str] | None, option("vary")] = None,
    first_seed: Annotated[int | None, option("first_seed")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="PLUGIN.OPTION=VALUE, such as toy.colours=8. Repeatable; `list` names the options."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file: a table [run] with these options, and one per task or method.")
    ] = None,
    data_dir: DataDir = None,
    out: Annotated[str | None, option("out")] = None,
    device: Device = None,
    threads: Threads = None,
    jobs: Jobs = None,
    cell_timeout: Annotated[float | None, option("cell_timeout")] = None,
    max_edges: Annotated[int | None, option("max_edges")] = None,
    overwrite: Annotated[str | None, option("overwrite")] = None,
    randomised_graphs: Annotated[int | None, option("randomised_graphs")] = None,
    cache_dir: CacheDir = None,
    plugin: Plugins = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which cells are there, which would run and why; run nothing.")
    ] = False,
) -> None:
    """Run methods on tasks, score them, and compare.

    Finished cells are kept and not run again: the same command continues where it was stopped, however it was stopped.
    Several such commands may work on one folder at the same time.

    Exit code: 0 when every cell is ok, partial or skipped for a stated reason, 1 when one is not, 2 for bad input.

    Example: `python -m attribench run --methods all --task toy --seeds 5`
    """
    from .plugins.configs import parse_overrides, read_config
    from .running.processes import warm_up

    given = dict(
        methods=methods, task=task, seeds=seeds, vary=vary, first_seed=first_seed, data_dir=data_dir, out=out,
        device=device, threads=threads, jobs=jobs, cell_timeout=cell_timeout, max_edges=max_edges, overwrite=overwrite,
        randomised_graphs=randomised_graphs, cache_dir=cache_dir, plugin=plugin,
    )  # fmt: skip
    file, settings = read_config(config) if config else {}, parse_overrides(set_ or [])
    told = run_options(file.get("run", {}), **given)  # before the imports below, which take seconds
    entry = results_folder(told.out, told.task) / "run.json"
    if told.jobs != 0 and not dry_run and not os.path.exists(entry):  # noqa: PTH110 - names may be too long for Path
        warm_up()  # beside which the fork server imports; where little may be left, later
    from . import api

    if dry_run:
        from .telling.outlook import print_outlook

        print_outlook(*api.dry_run(file=file, settings=settings, **given))
        return
    raise typer.Exit(tell_ending(api.run(file=file, settings=settings, progress=_progress(), **given)))


def _progress() -> Progress:
    from rich.console import Console

    from .base.progress import Progress

    return Progress(Console(stderr=True))


@app.command()
def study(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TOML file: a table per run, as in --config of `run`.")],
    out: Annotated[Path, typer.Option(help="Where the CSV files go: OUT/RUN/comparison.csv and so on.")],
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN[,TASK[,METHOD]]",
            help="Make this run alone, or the rows of this task (or of all) in its files, or those of this method on "
            "it, named as in FILE; all other rows stay. Repeatable.",
        ),
    ] = None,
    work: Annotated[Path, typer.Option(help="Results folders of the runs.")] = Path("results/studies"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which rows are of today's code and which are not; run nothing.")
    ] = False,
    device: Device = None,
    jobs: Jobs = None,
    cache_dir: CacheDir = None,
) -> None:
    """Run a study, several runs in one file, and keep its small CSV files.

    Every row says in its column `code` which code made it; tasks with rows that other code has made are named at the
    end, and the rows with --dry-run. They need not be other than today's code would make them.

    Example: `python -m attribench study tasks/toy_study.toml --out results/reference/toy`
    """
    from .studies import make, parts_of, stale

    told = dict(device=device, jobs=jobs, cache_dir=cache_dir)
    code = 0
    if dry_run:
        from .telling.outlook import print_stale

        for part in parts_of(file, out, only or [], **told):
            print_stale(part.kept, part.tasks, part.methods, stale(part))
        return
    for part in parts_of(file, out, only or [], **told):
        made = make(part, work / file.stem / part.name, _progress(), **told)
        code = max(code, tell_ending(made.results))
        if made.others is None:
            break
        if made.others:
            say(
                f"not of today's code in {part.kept}, or not there: {'; '.join(made.others)}: make each with --only "
                f"{part.name},TASK[,METHOD]"
            )
    raise typer.Exit(code)


@app.command()
def score(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A results folder that `run` wrote.")],
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
    plugin: Plugins = None,
) -> None:
    """Score a run's stored attributions again, without running a method.

    A run with plugins or data of the user's is scored with the same --plugin and --data-dir options: no code is run
    and no path is read because a file says so.
    """
    from . import api

    raise typer.Exit(tell_ending(api.score(run_folder, plugin or [], data_dir, cache_dir, _progress())))


@app.command()
def clean(
    folders: Annotated[list[str], typer.Argument(metavar="RUN...", help="Results folders that `run` wrote.")],
    models: Annotated[
        bool, typer.Option("--models", help="Also trained models that no plan of these folders uses.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
    data_dir: DataDir = None,
    cache_dir: CacheDir = None,
    plugin: Plugins = None,
) -> None:
    """Remove what no current plan of some results folders uses: cells of other code, configurations and plugins.

    Files of given models are removed where no run of their folder was made with them.
    """
    from . import api
    from .running.outlook import size_of

    found = api.unused(folders, models, plugin or [], data_dir, cache_dir)
    if not found:
        say("nothing is unused")
        return
    sizes = {path: size_of(path) / 1e6 for path in found}
    typer.echo("\n".join(f"{path}  {size:.2f} MB" for path, size in sizes.items()))
    if not yes:
        typer.confirm(f"Remove these {len(found)} entries, {sum(sizes.values()):.2f} MB?", abort=True, err=True)
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    say(f"removed {len(found)} entries")


@app.command(name="list")
def list_(
    kind: Annotated[
        str | None, typer.Argument(metavar="[methods|tasks]", help="What to list; both without it.")
    ] = None,
    names: Annotated[list[str] | None, typer.Argument(help="Only these, with their options.")] = None,
    card: Annotated[bool, typer.Option("--card", help="Print the cards of the named tasks instead.")] = False,
    plugin: Plugins = None,
) -> None:
    """List the methods or tasks, one line each; with names, also their options."""
    if kind not in (None, "methods", "tasks"):
        raise UserError(f"expected 'methods' or 'tasks'; got {kind!r}")
    if card and (kind != "tasks" or not names):
        raise UserError("expected --card with names of tasks, such as `list tasks toy --card`")
    from .plugins.configs import describe
    from .plugins.registry import METHODS, TASKS, load_plugin

    for source in plugin or []:
        load_plugin(source)
    registries: dict[str, Any] = {"methods": METHODS, "tasks": TASKS}
    for title, registry in registries.items():
        if kind not in (None, title):
            continue
        chosen = registry.resolve(names) if names else list(registry)
        width = max(len(name) for name in chosen)
        if kind is None:
            typer.echo(f"{title}:")
        for name in chosen:
            if card:
                typer.echo(registry[name]().card())
                continue
            typer.echo(f"{name:<{width}}  {registry[name].summary()}")
            for line in describe(name, registry[name].Config) if names else []:
                typer.echo(f"    {line}")


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A method or task.")],
    plugin: Plugins = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tell errors with their tracebacks.")] = False,
) -> None:
    """Run the contract suite on one method or task. Exit code 0 when every check holds, 1 when one does not."""
    import torch

    from .checking.methods import check_plugin
    from .plugins.registry import load_plugin

    torch.set_num_threads(1)
    for source in plugin or []:
        load_plugin(source)
    code = 0
    for title, problem in check_plugin(name, tracebacks=verbose):
        code = 1 if problem else code
        typer.echo(f"{'FAILED' if problem else 'ok':<7} {title}" + (f": {problem}" if problem else ""))
    raise typer.Exit(code)


@app.command()
def bench(
    methods: Methods = None,
    task: Annotated[str, typer.Option(help="The task whose graphs are explained.")] = "toy",
    graphs: Annotated[
        int | None,
        typer.Option(min=1, help="How many are explained at once.", show_default="500, or a tenth of what there is"),
    ] = None,
    cells: Annotated[int, typer.Option(min=0, help="Also time a run of so many small cells.")] = 0,
    device: Device = None,
    threads: Threads = None,
    out: Annotated[Path, typer.Option(help="Folder for bench.csv.")] = Path("results/bench"),
    plugin: Plugins = None,
) -> None:
    """Time methods against other implementations, a bare pass and themselves: ratios, within this run.

    Example: `python -m attribench bench --task toy --methods graphmask,gnnexplainer`
    """
    import torch

    from .bench import run_bench
    from .plugins.registry import METHODS, TASKS, load_plugin
    from .running.plan import select_device

    options = run_options({}, methods=methods, device=device, threads=threads, plugin=plugin)
    torch.set_num_threads(options.threads)
    for source in options.plugin:
        load_plugin(source)
    names, (name,) = METHODS.resolve(options.methods), TASKS.resolve([task])
    chosen = torch.device(select_device(options.device))
    run_bench(chosen, name, names, graphs, out, console(), cells, options.plugin)


def main() -> None:
    """Run the command line; bad input is one line on standard error and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        code = app(standalone_mode=False)
    except UserError as error:
        say(f"error: {error}")
        code = EXIT_BAD_INPUT
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message())
        else:
            say(f"error: {' '.join(error.format_message().split()).rstrip('.')}. See --help for what is valid.")
        code = EXIT_BAD_INPUT
    except (typer.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    sys.exit(code or 0)

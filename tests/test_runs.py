"""Whole runs: killed, interrupted, starved of room, memory and time, and resumed to equal CSVs.

Runs that something happens to are processes of their own; others are of this one, which has imported everything before.
One test kills a run again and again, at points that are spread over its whole length: ``ATTRIBENCH_KILLS`` says at how
many, few unless it is set. For many: ``ATTRIBENCH_KILLS=20 pytest -m slow -k random_points``.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from command_helpers import exit_code
from filelock import FileLock

from attribench.base.files import digest
from attribench.plugins.registry import METHODS, TASKS
from attribench.storing.cells import CellStore, is_key

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]

KILLS = int(os.environ.get("ATTRIBENCH_KILLS", "5"))
HANG = 240.0
"""Seconds after which a process counts as hanging."""
TIMEOUT = 20
"""Seconds of a cell that does not end. Within three quarters of them it is where it hangs, on a busy machine, too."""
VANISH = 30.0
"""Seconds within which the processes of a run that has ended must be gone."""
VIEWS = ("scores", "per_graph", "layers", "tasks", "comparison")
KEYS = ["task", "method", "data_seed"]

TOY = {"train": 200, "validation": 30, "test": 20, "colours": 3, "width": 16, "hidden": 32, "epochs": 20}
STEPS = {"gnnexplainer": 100, "graphmask": 60, "information-bottleneck": 80}
SETTINGS = [
    *(word for name, value in TOY.items() for word in ("--set", f"toy.{name}={value}")),
    *("--randomised-graphs", "10"),
]
BUILT_IN = [
    *(word for name, steps in STEPS.items() for word in ("--set", f"{name}.steps={steps}")),
    *("--set", "graphmask.tolerance=1e6", "--set", "graphmask.max_changed=1", "--set", "graphmask.max_retained=1"),
    *("--methods", f"integrated-gradients,{','.join(STEPS)},bulky[rank=1],bulky[rank=2]"),
    *("--plugin", "bulky.py"),
]

BULKY = '''
"""A method that tells how often it was fitted and whose attributions are many bytes."""

import os
from attribench.plugins.method import Attribution, Method, config
from attribench.plugins.registry import METHODS

@config
class Options:
    rank: int = 1

@METHODS.register
class Bulky(Method):
    name = "bulky"
    Config = Options

    def fit(self):
        with open("fits", "a") as file:
            file.write(f"{self.name} {self.config.rank} {self.seed}\\n")

    def attribute(self, graphs):
        scores = (graphs.edge_key * 31 + graphs.graph_key[graphs.edge_graph] * 17 + self.config.rank) % 97 / 97
        size = graphs.num_nodes_per_graph.double()
        return Attribution(scores[None], diagnostics={f"d{k}": size + k for k in range(20)})
'''
FAULTS = '''
"""Methods that end in every way in which a method can end, beside one that ends well."""

import ctypes
import os
import signal
import sys
import time

import torch

from attribench.plugins.method import Attribution, Method
from attribench.plugins.registry import METHODS, TASKS

LARGE = 60
"""Edges of a batch that is too large."""

class Saliency(Method):
    """Gradients with respect to open gates; before each pass, ``act``."""

    def fit(self):
        with open("fits", "a") as file:
            file.write(f"{self.name}\\n")
        with self.gates() as gates:
            for part, _ in gates.stream(self.subject.train, self.subject.max_edges).recordings():
                self.act(part.batch)

    def attribute(self, graphs):
        self.act(graphs)
        with self.gates() as gates:
            recording = gates.record(graphs)
            z = recording.ones().requires_grad_()
            output = self.subject.output
            explained = output.explained(recording.logits, graphs)
            target = output.target(explained, recording.forward(z), graphs, "logit")
            (scores,) = torch.autograd.grad(target.sum(), z)
        return Attribution(scores, scale="relative")

    def act(self, graphs):
        pass

@METHODS.register
class Good(Saliency):
    name = "good"

@METHODS.register
class Raises(Saliency):
    name = "raises"
    def act(self, graphs):
        raise RuntimeError("no luck\\nat all")

@METHODS.register
class Leaves(Saliency):
    name = "leaves"
    def act(self, graphs):
        sys.exit(4)

@METHODS.register
class Loops(Saliency):
    name = "loops"
    def act(self, graphs):
        while True:
            pass

@METHODS.register
class Sleeps(Saliency):
    name = "sleeps"
    def act(self, graphs):
        time.sleep(1000)

@METHODS.register
class NotANumber(Saliency):
    name = "not-a-number"
    def attribute(self, graphs):
        return Attribution(torch.full((1, graphs.num_edges), torch.nan))

@METHODS.register
class Starved(Saliency):
    name = "starved"
    def act(self, graphs):
        torch.empty(2**50)

@METHODS.register
class StarvedWhenLarge(Saliency):
    name = "starved-when-large"
    def act(self, graphs):
        if graphs.num_edges > LARGE:
            torch.empty(2**50)

@METHODS.register
class Killed(Saliency):
    name = "killed"
    def act(self, graphs):
        os.kill(os.getpid(), signal.SIGKILL)

@METHODS.register
class KilledWhenLarge(Saliency):
    name = "killed-when-large"
    def act(self, graphs):
        if graphs.num_edges > LARGE:
            os.kill(os.getpid(), signal.SIGKILL)

@METHODS.register
class Crashes(Saliency):
    name = "crashes"
    def act(self, graphs):
        ctypes.string_at(0)

@METHODS.register
class Exits(Saliency):
    name = "exits"
    def act(self, graphs):
        os._exit(3)

@METHODS.register
class Prints(Saliency):
    name = "prints"
    def fit(self):
        for i in range(20_000):
            print("line", i)
        os.system("echo said by another process")

@METHODS.register
class ShuffledFails(Saliency):
    name = "shuffled-fails"
    fits = 0
    def fit(self):
        type(self).fits += 1
        if self.fits == 2:
            raise RuntimeError("no luck with shuffled weights")

@TASKS.register
class Dies(TASKS["toy"]):
    name = "dies"
    def build(self, seeds, workshop):
        os.kill(os.getpid(), signal.SIGKILL)

@TASKS.register
class NoData(TASKS["toy"]):
    name = "no-data"
    def build(self, seeds, workshop):
        raise RuntimeError("no data")
'''
ENDINGS = {
    "raises": ("failed", "RuntimeError: no luck", "no luck\nat all"),
    "leaves": ("failed", "SystemExit: 4", "in act"),
    "loops": ("timeout", rf"took more than {TIMEOUT} s \(--cell-timeout\)", "in act"),
    "sleeps": ("timeout", rf"took more than {TIMEOUT} s \(--cell-timeout\)", "in act"),
    "not-a-number": ("failed", "ValueError: expected finite scores.*NaN", "in attribute"),
    "starved": ("out-of-memory", "RuntimeError: .*allocate", "in act"),
    "killed": ("out-of-memory", "its process was killed 4 times.*at most 6 edges a pass", ""),
    "crashes": ("failed", r"its process ended with signal 11 \(SIGSEGV\)", "Segmentation fault"),
    "exits": ("failed", "its process ended with exit code 3", ""),
}
"""How the faulty methods end: status, reason, and what the log says."""
SMALLER_PASSES = ("starved-when-large", "killed-when-large")
GOOD = ("good", "integrated-gradients", "prints", "shuffled-fails", *SMALLER_PASSES)
FAULTY = ["--plugin", "faults.py", "--max-edges", "400"]
RANKS = ("auroc", "average_precision", "randomisation_correlation")
"""Figures of ranks, which may change where scores are equal but for rounding."""

ROOM = 16_000
"""Bytes of the largest file that a full folder still takes: not the attributions of ``bulky``, but all the others."""
FULL = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({ROOM}, {ROOM}))"
POWERLESS = "import ctypes; [ctypes.CDLL(None).prctl(24, power, 0, 0, 0) for power in (1, 2)]"
"""Gives up what lets root write where nobody may: PR_CAPBSET_DROP of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
LISTENING = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)"
"""Hears Ctrl-C also where these tests are a background job of a shell, which is deaf to it, as are its children."""


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run.

    Args:
        root: its folder: results in ``r``, models in ``c``.
        seconds: how long it took.
        views: the CSV files that do not depend on time.
    """

    root: Path
    seconds: float
    views: dict[str, bytes]


def run(root: Path, *arguments: str, code: int = 0) -> None:
    """Run in a folder, in this process; the plugins are forgotten afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        for registry in (METHODS, TASKS):
            list(registry)  # discover first
            patch.setattr(registry, "_entries", dict(registry._entries))
        patch.chdir(root)
        assert exit_code(*words(root, *arguments)) == code


def words(root: Path, *arguments: str) -> list[str]:
    """Write the plugins into a folder; return the command that runs there, without the program's name."""
    (root / "bulky.py").write_text(BULKY)
    (root / "faults.py").write_text(FAULTS)
    return ["run", *SETTINGS, "--out", "r", "--cache-dir", "c", *arguments]


def start(root: Path, *arguments: str, first: str = "", **options: Any) -> subprocess.Popen[str]:
    """Start ``run`` in a folder and in a session of its own; ``first`` is Python that its process executes before."""
    command = [sys.executable, "-m", "attribench", *words(root, *arguments)]
    if first:
        command = after(first, *command)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    process = subprocess.Popen(command, cwd=root, env=env, text=True, start_new_session=True, **pipes)
    SESSIONS.append(process.pid)
    return process


def after(first: str, *command: str) -> list[str]:
    return [sys.executable, "-c", f"{first}; import os, sys; os.execv(sys.argv[1], sys.argv[1:])", *command]


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a process; return what it said on standard error."""
    try:
        told, said = process.communicate(timeout=HANG)
    except subprocess.TimeoutExpired:
        end_session(process.pid)
        process.communicate()
        raise
    assert process.returncode == code, f"{told}\n{said}"
    assert code == 1 or "Traceback" not in said
    assert "WARNING:" not in said  # a worker's messages are shown as the parent's own
    return said


SESSIONS: list[int] = []
"""Sessions that the test has started."""


def session(leader: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, leads, *_ = path.read_text().rpartition(")")[2].split()
            if int(leads) == leader and state != "Z":
                found.append(int(path.parent.name))
    return found


def end_session(leader: int) -> None:
    for process in session(leader):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def wait_until(holds: Callable[[], bool], seconds: float = HANG) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def vanishes(leader: int) -> bool:
    """Say whether all processes of a session end soon."""
    return wait_until(lambda: not session(leader), VANISH)


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """After every test, none of the processes that it has started is there any more."""
    SESSIONS.clear()
    yield
    left = [leader for leader in SESSIONS if not vanishes(leader)]
    for leader in left:
        end_session(leader)
    assert not left


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that is made by the first of pytest's processes to ask for it; the others wait."""
    base = factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(root.with_suffix(".lock")):
        if not (root / "made").exists():
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            make(root)
            (root / "made").touch()
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    def make(root: Path) -> None:
        began = time.monotonic()
        finish(start(root, *BUILT_IN, "--seeds", "2", "--jobs", "2"))
        (root / "seconds").write_text(str(time.monotonic() - began))

    root = made_once(tmp_path_factory, "whole", make)
    views = {name: (root / "r" / f"{name}.csv").read_bytes() for name in VIEWS}
    return Whole(root, float((root / "seconds").read_text()), views)


def differing(root: Path, whole: Whole) -> list[str]:
    """Name the CSV files that are not those of the uninterrupted run, byte for byte."""
    return [name for name in VIEWS if (root / "r" / f"{name}.csv").read_bytes() != whole.views[name]]


def finished(root: Path) -> dict[str, tuple[int, int]]:
    """Return which file every finished record and score is, and when it was written."""
    found = {}
    for pattern in ("*/record.json", "*/scores/scores.json"):
        for path in (root / "r" / "cells").glob(pattern):
            status = path.stat()
            found[str(path)] = (status.st_ino, status.st_mtime_ns)
    return found


def cells(root: Path) -> list[Path]:
    return [path for path in sorted((root / "r" / "cells").glob("*")) if not path.name.startswith(".draft-")]


def record(cell: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((cell / "record.json").read_text())["content"]
    return content


def assert_nothing_is_half_written(root: Path) -> None:
    """Every cell is whole, with its checksums; every model is, too."""
    store = CellStore(root / "r")
    for cell in cells(root):
        assert is_key(cell.name.removeprefix("problem-"))
        stored = store.record(cell.name)
        assert (stored is None) == cell.name.startswith("problem-")
        if stored is not None and stored.attributions:
            store.attributions(cell.name, stored, torch.device("cpu"))
    for model in (root / "c" / "models").glob("[!.]*/"):
        assert {path.name for path in model.iterdir()} == {"weights.safetensors", "model.json", "data.json"}


def renew(root: Path, whole: Whole) -> None:
    """Empty a folder; leave in it a draft with a record that is not true, as a killed process might."""
    for name in ("r", "c"):
        shutil.rmtree(root / name, ignore_errors=True)
    done = next(path for path in cells(whole.root) if (path / "record.json").exists())
    draft = root / "r" / "cells" / ".draft-forged" / done.name
    shutil.copytree(done, draft)
    content = {**record(done), "status": "failed", "reason": "forged"}
    (draft / "record.json").write_text(json.dumps({"checksum": digest(content), "content": content}))


def started_and_not_ended(
    root: Path, whole: Whole, kept: dict[str, tuple[int, int]], jobs: int, delay: float
) -> subprocess.Popen[str]:
    """Start a run and return it after a delay; where it was faster, look at the result and begin from nothing."""
    while True:
        with (root / "said").open("a") as said:
            process = start(
                root, *BUILT_IN, "--seeds", "2", "--jobs", str(jobs), stdout=subprocess.DEVNULL, stderr=said
            )
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            return process
        assert process.returncode == 0
        assert differing(root, whole) == []
        assert kept.items() <= finished(root).items()
        kept.clear()
        renew(root, whole)
        delay /= 2


def test_killed_at_random_points_and_resumed(whole: Whole, tmp_path: Path) -> None:
    draw = random.Random(0)
    delays = [whole.seconds * (k + draw.random()) / KILLS for k in range(KILLS)]
    draw.shuffle(delays)
    renew(tmp_path, whole)
    kept: dict[str, tuple[int, int]] = {}
    for k, delay in enumerate(delays):
        process = started_and_not_ended(tmp_path, whole, kept, jobs=2 if k % 5 else 0, delay=delay)
        if k % 2:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        if k % 4:  # at times the next run starts while orphans of this one are still there
            assert vanishes(process.pid)
        assert kept.items() <= finished(tmp_path).items()
        kept = finished(tmp_path)
        assert_nothing_is_half_written(tmp_path)
    run(tmp_path, *BUILT_IN, "--seeds", "2", "--jobs", "2")
    assert kept.items() <= finished(tmp_path).items()
    assert differing(tmp_path, whole) == []
    said = (tmp_path / "said").read_text()
    assert "damaged" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("jobs", ["0", "1"])
def test_serial_and_parallel_runs_give_the_same_csvs(whole: Whole, tmp_path: Path, jobs: str) -> None:
    run(tmp_path, *BUILT_IN, "--seeds", "2", "--jobs", jobs)
    assert differing(tmp_path, whole) == []


def test_two_processes_share_a_folder_and_run_no_cell_twice(whole: Whole, tmp_path: Path) -> None:
    both = [start(tmp_path, *BUILT_IN, "--seeds", "2", "--jobs", "2") for _ in range(2)]
    for process in both:
        finish(process)
    assert differing(tmp_path, whole) == []
    fits = [sorted((root / "fits").read_text().splitlines()) for root in (tmp_path, whole.root)]
    assert fits[0] == fits[1]
    assert_nothing_is_half_written(tmp_path)


def copied(root: Path, target: Path) -> Path:
    """Copy the results and models of a run."""
    for name in ("r", "c"):
        shutil.copytree(root / name, target / name)
    return target


def cell_of(root: Path, method: str, seed: int) -> Path:
    """Return the folder of one cell."""
    found = [path for path in cells(root) if (path / "record.json").exists()]
    contents = [(path, record(path)["content"]) for path in found]
    (cell,) = [path for path, content in contents if (content["method"], content["data_seed"]) == (method, seed)]
    return cell


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def test_damaged_files_are_named_and_made_again(whole: Whole, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    copied(whole.root, tmp_path)
    first, second = sorted((tmp_path / "c" / "models").glob("*/"))
    unscored = cell_of(tmp_path, "integrated-gradients", 0)
    shutil.rmtree(unscored / "scores")
    damage = {
        first / "weights.safetensors": flip,
        second / "model.json": cut,
        cell_of(tmp_path, "gnnexplainer", 0) / "record.json": cut,
        cell_of(tmp_path, "graphmask", 1) / "scores" / "scores.json": flip,
        cell_of(tmp_path, "information-bottleneck", 1) / "scores" / "per_graph.safetensors": flip,
        unscored / "attributions.safetensors": flip,
    }
    for path, do in damage.items():
        do(path)
    run(tmp_path, *BUILT_IN, "--seeds", "2", "--jobs", "2")
    assert differing(tmp_path, whole) == []
    for path in damage:
        relative = path.relative_to(tmp_path)
        assert any(str(relative) in message for message in caplog.messages), relative
        if path.name != "record.json":  # which has the costs
            assert path.read_bytes() == (whole.root / relative).read_bytes(), relative
    assert_nothing_is_half_written(tmp_path)


def test_what_killed_processes_left_is_cleared_away(whole: Whole, tmp_path: Path) -> None:
    copied(whole.root, tmp_path)
    folders = [tmp_path / "r", tmp_path / "r" / "cells", cells(tmp_path)[0], tmp_path / "c" / "models"]
    drafts = {name: [folder / f".draft-{name}" for folder in folders] for name in ("old", "young")}
    for draft in (*drafts["old"], *drafts["young"]):
        draft.mkdir()
        (draft / "half").write_text("half")
    for draft in drafts["old"]:
        os.utime(draft, (time.time() - 10**5,) * 2)
    run(tmp_path, *BUILT_IN, "--seeds", "2", "--jobs", "0")
    assert [draft for draft in drafts["old"] if draft.exists()] == []
    assert all(draft.exists() for draft in drafts["young"])  # another process may be writing it


@pytest.fixture(scope="module")
def faulty(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with a method for each kind of fault."""

    def make(root: Path) -> None:
        shutil.copytree(whole.root / "c", root / "c")
        methods = ",".join([*GOOD[1:], *ENDINGS, "good"])
        process = start(root, *FAULTY, "--methods", methods, "--jobs", "2", "--cell-timeout", str(TIMEOUT))
        (root / "said").write_text(finish(process, code=1))

    return made_once(tmp_path_factory, "faulty", make)


def table(root: Path, name: str = "scores") -> pd.DataFrame:
    return pd.read_csv(root / "r" / f"{name}.csv").set_index("method")


@pytest.mark.parametrize("method", ENDINGS)
def test_a_fault_ends_its_cell_with_status_reason_and_log(faulty: Path, method: str) -> None:
    status, reason, log = ENDINGS[method]
    row = table(faulty).loc[method].to_dict()
    assert row["status"] == status
    assert re.fullmatch(f"{reason}.*", row["reason"])
    cell = cell_of(faulty, method, 0)
    assert (record(cell)["status"], record(cell)["reason"]) == (status, row["reason"])
    assert not log or log in (cell / "log.txt").read_text()
    assert table(faulty, "comparison").loc[method, "cells"] == 0


def test_the_other_cells_are_as_without_the_faulty_ones(faulty: Path, tmp_path: Path) -> None:
    shutil.copytree(faulty / "c", tmp_path / "c")
    run(tmp_path, *FAULTY, "--methods", "good,integrated-gradients", "--jobs", "2")
    for name in ("scores", "per_graph", "layers", "comparison"):
        clean = table(tmp_path, name)
        mine = table(faulty, name)
        pd.testing.assert_frame_equal(mine[mine.index.isin(clean.index)][list(clean)], clean, check_dtype=False)
    assert set(table(tmp_path)["status"]) == {"ok"}
    assert (faulty / "r" / "tasks.csv").read_bytes() == (tmp_path / "r" / "tasks.csv").read_bytes()


def assert_close(left: pd.DataFrame, right: pd.DataFrame) -> None:
    """Figures are equal within 1e-5, those of ranks within 1e-2; words are equal."""
    left, right = left.reset_index(drop=True), right.reset_index(drop=True)
    ranks = [name for name in map(str, left) if name.startswith(RANKS)]
    for names, tolerance in ((ranks, 1e-2), ([name for name in left if name not in ranks], 1e-5)):
        pd.testing.assert_frame_equal(left[names], right[names], check_dtype=False, rtol=0, atol=tolerance)


@pytest.mark.parametrize("method", SMALLER_PASSES)
def test_memory_that_runs_out_in_large_passes_is_tried_again_in_smaller_ones(faulty: Path, method: str) -> None:
    for name in ("scores", "per_graph", "layers"):
        frame = table(faulty, name)
        for of in ("{}", "random({})") if name == "scores" else ("{}",):
            assert_close(frame.loc[[of.format(method)]], frame.loc[[of.format("good")]])
    assert table(faulty).loc[method, "status"] == "ok"
    costs = table(faulty, "costs")["max_edges"]
    assert costs[method] == 25
    assert costs.dropna().index.isin([*SMALLER_PASSES, *ENDINGS]).all()


def test_what_a_method_prints_is_kept_to_its_end(faulty: Path) -> None:
    log = (cell_of(faulty, "prints", 0) / "log.txt").read_text()
    assert log.endswith("said by another process\n")
    assert "line 19999\n" in log
    assert len(log) <= 100_000
    assert "line 19999" not in (faulty / "said").read_text()


def test_a_failure_for_shuffled_weights_alone_leaves_the_cell(faulty: Path) -> None:
    row = table(faulty).loc["shuffled-fails"].to_dict()
    assert (row["status"], row["fit_randomised_failed"]) == ("ok", 1)
    assert pd.isna(row["randomisation_correlation"])
    assert "for a model with shuffled weights: no luck with shuffled weights" in (faulty / "said").read_text()


def test_a_problem_that_cannot_be_built_ends_its_own_cells_alone(whole: Whole, tmp_path: Path) -> None:
    shutil.copytree(whole.root / "c", tmp_path / "c")
    arguments = ["--task", "dies,no-data,toy", "--methods", "good,integrated-gradients", "--jobs", "2"]
    run(tmp_path, *FAULTY, *arguments, code=1)
    scores = pd.read_csv(tmp_path / "r" / "scores.csv").query("kind == 'method'")
    for task, status, reason in (
        ("dies", "out-of-memory", "its process was killed 4 times"),
        ("no-data", "failed", "RuntimeError: no data"),
        ("toy", "ok", "nan"),
    ):
        mine = scores[scores["task"] == task]
        assert list(mine["status"]) == [status, status]
        assert all(str(text).startswith(reason) for text in mine["reason"])
    logs = [path.read_text() for path in (tmp_path / "r" / "cells").glob("*/log.txt")]
    assert len(logs) == 2
    assert all("in build" in log for log in logs)


def test_overwrite_says_which_cells_are_run_again(faulty: Path, tmp_path: Path) -> None:
    copied(faulty, tmp_path)
    before = finished(tmp_path)
    again: dict[str, Counter[str]] = {}
    for overwrite in ("never", "failed", "always"):
        run(tmp_path, *FAULTY, "--methods", "good,raises,exits", "--jobs", "2", "--overwrite", overwrite, code=1)
        assert list(table(tmp_path)["status"].loc[["exits", "good", "raises"]]) == ["failed", "ok", "failed"]
        fits = tmp_path / "fits"
        again[overwrite] = Counter(fits.read_text().splitlines() if fits.exists() else [])
        fits.unlink(missing_ok=True)
        if overwrite == "never":
            assert finished(tmp_path) == before
    assert again["never"] == {}
    assert again["failed"] == {"raises": 1, "exits": 1}
    assert again["always"] == {"raises": 1, "exits": 1, "good": 2}


def test_a_folder_that_cannot_be_written_is_one_line(whole: Whole, tmp_path: Path) -> None:
    copied(whole.root, tmp_path)
    results = tmp_path / "r"
    before = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.glob("[rc]/**/*"))}
    results.chmod(0o555)
    try:
        writes = after(POWERLESS, sys.executable, "-c", "open('r/written', 'w')")
        if subprocess.run(writes, cwd=tmp_path, capture_output=True).returncode == 0:
            pytest.skip("this user may write anywhere")
        said = finish(start(tmp_path, *BUILT_IN, "--seeds", "2", "--jobs", "2", first=POWERLESS), code=2)
    finally:
        results.chmod(0o755)
    assert re.fullmatch(r"error: expected a writable folder.*; r: Permission denied: .*--out.*\n", said)
    assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.glob("[rc]/**/*"))} == before


def test_a_full_folder_ends_the_run_and_the_next_one_completes_it(whole: Whole, tmp_path: Path) -> None:
    kept: dict[str, tuple[int, int]] = {}
    for jobs in ("0", "2"):
        said = finish(start(tmp_path, *BUILT_IN, "--seeds", "2", "--jobs", jobs, first=FULL), code=2)
        *cells, error = said.splitlines()
        assert all(line.startswith("[") for line in cells)  # those that ended before
        assert re.fullmatch(r"error: expected a writable folder with room; r/cells: File too large: .*", error)
        assert kept.items() <= finished(tmp_path).items()
        kept = finished(tmp_path)
        assert sum("record.json" in path for path in kept) >= 4
        assert jobs != "0" or not list(tmp_path.rglob(".draft-*"))
        assert_nothing_is_half_written(tmp_path)
    run(tmp_path, *BUILT_IN, "--seeds", "2", "--jobs", "2")
    assert kept.items() <= finished(tmp_path).items()
    assert differing(tmp_path, whole) == []


def test_ctrl_c_keeps_what_is_finished_and_the_next_run_continues(whole: Whole, tmp_path: Path) -> None:
    process = start(tmp_path, *BUILT_IN, "--seeds", "2", "--jobs", "2", first=LISTENING)
    assert wait_until(lambda: len(list(tmp_path.glob("r/cells/*/record.json"))) > 2)
    os.killpg(process.pid, signal.SIGINT)
    said = finish(process, code=130)
    match = re.search(r"^interrupted after (\d+) of 12 cells; they are kept: run the same command", said, re.MULTILINE)
    kept = finished(tmp_path)
    assert match is not None
    assert 0 < int(match[1]) <= sum("record.json" in path for path in kept) < 12
    run(tmp_path, *BUILT_IN, "--seeds", "2", "--jobs", "2")
    assert kept.items() <= finished(tmp_path).items()
    assert differing(tmp_path, whole) == []


def is_importing(process: int) -> bool:
    """Say whether a process has begun to import PyTorch."""
    try:
        return "libtorch" in Path(f"/proc/{process}/maps").read_text()
    except OSError:
        return False


def test_ctrl_c_while_it_starts_is_quiet(tmp_path: Path) -> None:
    process = start(tmp_path, *BUILT_IN, "--jobs", "2", first=LISTENING)
    assert wait_until(lambda: any(is_importing(other) for other in session(process.pid) if other != process.pid))
    os.killpg(process.pid, signal.SIGINT)
    assert len(finish(process, code=130).splitlines()) <= 1


@pytest.mark.parametrize("max_edges", ["50", "1"])
def test_smaller_passes_give_the_same_figures(whole: Whole, tmp_path: Path, max_edges: str) -> None:
    shutil.copytree(whole.root / "c", tmp_path / "c")
    run(tmp_path, *BUILT_IN, "--jobs", "2", "--max-edges", max_edges)
    for name in ("scores", "layers"):
        expected = table(whole.root, name).query("data_seed == 0")
        assert_close(table(tmp_path, name), expected)

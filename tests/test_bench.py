"""``bench`` runs, and writes a row for every figure that it promises."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from command_helpers import exit_code

from attribench.bench import Bench, many_cells
from attribench.plugins.registry import METHODS, load_plugin


def test_bench_prints_and_writes_every_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bench, "seconds", _once)
    arguments = ["bench", "--methods", "integrated-gradients,graphmask,gate-values", "--graphs", "10", "--out"]
    assert exit_code(*arguments, str(tmp_path)) == 0
    rows = pd.read_csv(tmp_path / "bench.csv")
    told = ["method", "ours_is", "ours", "other_is", "other", "ratio", "better", "peak_mib"]
    assert list(rows) == [*told, "task", "device", "threads"]
    assert rows.groupby("method").size().to_dict() == {"graphmask": 3, "integrated-gradients": 4}
    rival = rows[rows["other_is"].str.contains("PyG CaptumExplainer")]
    assert list(rival["better"]) == ["higher"]
    growth = rows["other_is"].str.endswith("10 times")
    assert (rows["peak_mib"].notna() == growth).all()
    ratios = rows["ours"] / rows["other"]
    upside_down = rows["better"] == "higher"
    assert list(rows["ratio"]) == pytest.approx(list(ratios.where(~upside_down, 1 / ratios)), rel=1e-2)


def test_bench_says_what_a_run_spends_beside_its_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of methods that are plugins, of which the processes have to know."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "from attribench import METHODS, Attribution, Method\n\n\n@METHODS.register\nclass Nothing(Method):\n"
        '    """All messages alike."""\n\n    name = "nothing-of-bench"\n\n    def attribute(self, graphs):\n'
        "        with self.gates() as gates:\n"
        '            return Attribution(gates.record(graphs).ones(), scale="relative")\n'
    )
    monkeypatch.setattr(METHODS, "_entries", {name: METHODS[name] for name in METHODS})
    load_plugin(str(plugin))
    whole, tables = many_cells("toy", ["erasure", "nothing-of-bench"], 4, torch.device("cpu"), [str(plugin)])
    assert whole.ours_is == "a run of 4 small cells, of all processes"
    assert whole.ours > whole.other > 0.1
    assert whole.ratio == whole.ours / whole.other
    assert tables.ours < whole.ours


def _once(self: Bench, *actions: object, repeats: int = 3) -> list[float]:
    """Run every action once, and say that each took one second longer than the one before."""
    for action in actions:
        assert callable(action)
        action()
    return [float(i + 1) for i, _ in enumerate(actions)]

"""attribench: which attribution method for graph neural networks tells the truth about a model?

All that a plugin needs comes from here: ``from attribench import Method, Task, GraphBatch, ...``. The modules behind
the names may move; the names stay. They are imported when first asked for, so that ``--help`` answers at once.
"""

import ast
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import load as load
    from .api import run as run
    from .api import score as score
    from .base.arrays import file_checksum as file_checksum
    from .base.errors import Infeasible as Infeasible
    from .base.errors import Skipped as Skipped
    from .base.errors import UserError as UserError
    from .base.seeds import derive as derive
    from .base.seeds import generator as generator
    from .model.adjacency import AdjacencyLayer as AdjacencyLayer
    from .model.adjacency import Padding as Padding
    from .model.baseline import Baseline as Baseline
    from .model.gates import Gates as Gates
    from .model.graphs import GraphBatch as GraphBatch
    from .model.graphs import named_keys as named_keys
    from .model.hard_concrete import HardConcrete as HardConcrete
    from .model.hard_concrete import straight_through_round as straight_through_round
    from .model.model import GraphModel as GraphModel
    from .model.model import PyGModel as PyGModel
    from .model.noise import EdgeNoise as EdgeNoise
    from .model.output import Categorical as Categorical
    from .model.output import GraphClassification as GraphClassification
    from .model.output import NodeClassification as NodeClassification
    from .model.output import Output as Output
    from .model.output_binary import BinaryClassification as BinaryClassification
    from .model.output_binary import LinkPrediction as LinkPrediction
    from .model.output_binary import MultiLabelClassification as MultiLabelClassification
    from .model.output_choice import MultipleChoice as MultipleChoice
    from .model.output_regression import GraphRegression as GraphRegression
    from .model.output_sequence import SequenceLabelling as SequenceLabelling
    from .model.recording import Recording as Recording
    from .model.refusals import UnsupportedModelError as UnsupportedModelError
    from .model.subgraphs import neighbourhoods as neighbourhoods
    from .model.subgraphs import whole_graph as whole_graph
    from .own_model import Explanations as Explanations
    from .own_model import explain as explain
    from .plugins.method import Attribution as Attribution
    from .plugins.method import Method as Method
    from .plugins.method import Subject as Subject
    from .plugins.method import config as config
    from .plugins.registry import METHODS as METHODS
    from .plugins.registry import TASKS as TASKS
    from .plugins.rival import Rival as Rival
    from .plugins.task import Extras as Extras
    from .plugins.task import Problem as Problem
    from .plugins.task import Split as Split
    from .plugins.task import Task as Task
    from .plugins.task import TaskSeeds as TaskSeeds
    from .plugins.task import Workshop as Workshop
    from .plugins.training import accuracy as accuracy
    from .plugins.training import train_classifier as train_classifier
    from .scoring.figures import Figure as Figure
    from .scoring.passes import Asking as Asking
    from .scoring.passes import Masked as Masked
    from .scoring.scorers import GOLD as GOLD
    from .scoring.scorers import GOLD_OF_EVERY_LAYER as GOLD_OF_EVERY_LAYER
    from .scoring.scorers import METHOD as METHOD
    from .scoring.scorers import SEVERAL_LAYERS as SEVERAL_LAYERS
    from .scoring.scorers import Made as Made
    from .scoring.scorers import Need as Need
    from .scoring.scorers import scorer as scorer
    from .scoring.view import View as View
    from .telling.results import Explained as Explained
    from .telling.results import Results as Results

__version__ = "0.1.0"

# In a checkout the plugin folders stand beside this package; installed, they stand inside it.
_root = Path(__file__).resolve().parent.parent
if (_root / "methods" / "__init__.py").is_file() and (_root / "pyproject.toml").is_file():
    __path__.append(str(_root))


@cache
def _exports() -> dict[str, str]:
    """Return the module of every name that is imported above for type checkers: the list is kept in one place."""
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1)
    return {alias.asname or alias.name: f"{__name__}.{node.module}" for node in imports for alias in node.names}


def __getattr__(name: str) -> Any:
    """Import a name at the first look-up (PEP 562)."""
    if name.startswith("__") or name not in _exports():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_exports()[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_exports()})

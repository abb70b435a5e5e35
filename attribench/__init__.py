"""attribench: which attribution method for graph neural networks tells the truth about a model?"""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout the plugin folders stand beside this package; installed, they stand inside it.
_root = Path(__file__).resolve().parent.parent
if (_root / "methods" / "__init__.py").is_file() and (_root / "pyproject.toml").is_file():
    __path__.append(str(_root))

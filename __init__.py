"""pared: joint pruning, distillation and quantization search that scores the file you ship."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import ParedError, UserError
    from .evaluators.subjects.classification import Classification
    from .search.api import fetch, open_run, resume, search
    from .search.candidate import Candidate
    from .search.run import Run
    from .spaces.subject import Split, Subject

__version__ = "0.1.0"
__all__ = [
    "Candidate", "Classification", "ParedError", "Run", "Split", "Subject", "UserError",
    "__version__", "fetch", "open_run", "resume", "search",
]

# Resolved on first use, so that `import pared` loads neither torch nor ray.
_HOMES = {
    "Candidate": ".search.candidate",
    "Classification": ".evaluators.subjects.classification",
    "ParedError": ".errors",
    "Run": ".search.run",
    "Split": ".spaces.subject",
    "Subject": ".spaces.subject",
    "UserError": ".errors",
    "fetch": ".search.api",
    "open_run": ".search.api",
    "resume": ".search.api",
    "search": ".search.api",
}


def __getattr__(name: str) -> Any:
    # `pared.search` is both the verb and a room: the verb wins, see search/__init__.py.
    if name not in _HOMES:
        raise AttributeError(f"module 'pared' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)

"""Everything that pared raises on purpose.

ParedError
├── UserError               the input is wrong: what was got, what is allowed, where to look (exit 2)
│   ├── ConfigError             run file, command line option, space
│   ├── ProfileError            hardware profile
│   ├── SubjectError            model, data, loss or metric
│   ├── BudgetError             a budget that cannot be read, or that nothing meets
│   ├── RunError                run directory: exists, owned, damaged, unwritable
│   └── MissingExtraError       an optional backend that is not installed
└── CandidateError          one candidate cannot be scored; recorded with its reason, the search goes on
    ├── RecipeError             a combination of steps that is not allowed
    ├── GateError               a pass did nothing, or changed more than it should
    ├── ExportError             the model does not export
    ├── TrainingError           recovery diverged
    └── MetricError             the metric is not a number
"""

from collections.abc import Iterable
from difflib import get_close_matches
from reprlib import Repr

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 120


class ParedError(Exception):
    """Base of every error that pared raises on purpose."""


class UserError(ParedError):
    """The input is wrong; the message says what was got, what is allowed and where to look."""


class ConfigError(UserError):
    """The run file, an option or the space is wrong."""


class ProfileError(UserError):
    """A hardware profile is unknown or does not hold together."""


class SubjectError(UserError):
    """The model, its data, its loss or its metric is not usable."""


class BudgetError(UserError):
    """A budget cannot be read, or nothing meets it."""


class RunError(UserError):
    """The run directory exists, is owned by a live driver, is damaged or cannot be written."""


class MissingExtraError(UserError):
    """An optional backend is not installed; the message says what to install."""


class CandidateError(ParedError):
    """One candidate cannot be scored; the search records the reason and goes on."""


class RecipeError(CandidateError):
    """The steps of a recipe do not go together."""


class GateError(CandidateError):
    """A pass did nothing, or changed more than it should."""


class ExportError(CandidateError):
    """The model does not export; the message names the operator or the line."""


class TrainingError(CandidateError):
    """Recovery training diverged."""


class MetricError(CandidateError):
    """The metric of a candidate is not a finite number."""


def unknown(kind: str, got: object, allowed: Iterable[str]) -> str:
    """'unknown KIND 'got'; did you mean 'x'? Known: ...', for every lookup by name."""
    names = sorted(allowed)
    close = get_close_matches(str(got), names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"unknown {kind} {str(got)!r}{hint} Known: {', '.join(names) or 'none'}"


def first_line(error: BaseException) -> str:
    """Of its message; empty where it has none."""
    return next(iter(str(error).strip().splitlines()), "")


def shown(got: object) -> str:
    """A value as a message can hold it: short, however large it is."""
    try:
        return _SHORT.repr(got)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a number of thousands of digits"

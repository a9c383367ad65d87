"""What an allowed recipe is, as a table: which steps, in which order, with which others."""

from collections.abc import Sequence

from ..errors import RecipeError, unknown
from .passes import PASSES

# A recipe takes its steps in this order, each at most once.
ORDER = ("prune", "recover", "fp16", "int8_static", "int8_dynamic", "weight_only")

# At most one of each set: every one of them decides the number format of the same weights.
EXCLUSIVE = (frozenset({"fp16", "int8_static", "int8_dynamic", "weight_only"}),)

# A step that makes sense only after another.
REQUIRES = {"recover": "prune"}


def check(names: Sequence[str]) -> None:
    """Raises RecipeError when steps of these names, in this order, are no allowed recipe."""
    for name in names:
        if name not in PASSES:
            raise RecipeError(unknown("technique", name, PASSES))
    places = [ORDER.index(name) for name in names]
    if places != sorted(set(places)):
        raise RecipeError(f"steps {list(names)} are out of order or repeated; order: {', '.join(ORDER)}")
    for group in EXCLUSIVE:
        if len(together := [name for name in names if name in group]) > 1:
            raise RecipeError(f"{' and '.join(together)} exclude each other")
    for name, needed in REQUIRES.items():
        if name in names and needed not in names:
            raise RecipeError(f"{name} needs {needed} before it")

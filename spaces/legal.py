"""What an allowed recipe is, as tables: which steps, in which order, with which others.

The space asks the same tables before it offers a technique, so an illegal recipe cannot be sampled.
"""

from collections.abc import Collection, Sequence

from ..errors import RecipeError, unknown
from .passes import FILE, MODULE, PASSES

# A recipe takes its steps in this order, each at most once.
ORDER = (
    "student", "depth", "prune", "heads", "low_rank", "sparsify", "recover",
    "fp16", "int8_static", "int8_nncf", "int8_dynamic", "mixed_int8", "weight_only", "mixed", "binary",
    "qat", "pack_zeros",
)

# At most one of each set.
EXCLUSIVE = (
    # Every one of them decides the number format of the same weights.
    frozenset({"fp16", "int8_static", "int8_nncf", "int8_dynamic", "mixed_int8", "weight_only", "mixed",
               "binary"}),
    # Another architecture has other blocks, heads and channels than those that were surveyed.
    *(frozenset({"student", name}) for name in ("depth", "prune", "heads", "low_rank")),
    # Zeros are packed by position; weights packed by value have no place for that.
    *(frozenset({"sparsify", name}) for name in ("int8_dynamic", "weight_only", "mixed", "binary")),
    frozenset({"sparsify", "qat"}),  # training the file fills the zeros again
)

# A step that makes sense only after one of others. A model that nothing changed may be trained on
# its own outputs (self-distillation), so `recover` needs nothing.
REQUIRES: dict[str, frozenset[str]] = {
    "qat": frozenset({"int8_static", "mixed_int8", "weight_only", "mixed", "binary"}),
    "pack_zeros": frozenset({"sparsify"}),
}

# What comes along with a step whenever that is of use here.
BRINGS = {
    "student": ("recover",), "depth": ("recover",), "prune": ("recover",), "heads": ("recover",),
    "low_rank": ("recover",), "sparsify": ("recover", "pack_zeros"), "binary": ("qat",),
}

# A file pass that follows from another step is no format of its own.
FORMATS = tuple(name for name in ORDER if name in FILE and name not in REQUIRES)
STRUCTURE = tuple(name for name in ORDER if name in MODULE)


def check(names: Sequence[str]) -> None:
    """Raises RecipeError when steps of these names, in this order, are no allowed recipe."""
    for name in names:
        if name not in PASSES:
            raise RecipeError(unknown("technique", name, PASSES))
    places = [ORDER.index(name) for name in names]
    if places != sorted(set(places)):
        raise RecipeError(f"steps {list(names)} are out of order or repeated; order: {', '.join(ORDER)}")
    for i, name in enumerate(names):
        if why := objection(name, names[:i]):
            raise RecipeError(why)


def objection(name: str, before: Collection[str]) -> str | None:
    """Why this step cannot follow those, or None."""
    for group in EXCLUSIVE:
        others = [other for other in before if name in group and other in group]
        if others:
            return f"{others[0]} and {name} exclude each other"
    needed = REQUIRES.get(name, frozenset())
    if needed and not needed & set(before):
        return f"{name} needs {' or '.join(sorted(needed))} before it"
    return None

"""What the user froze: `keep:` names layers by path, pattern or type; no pass changes them."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from ..errors import ConfigError, unknown


def resolve(patterns: Sequence[str], model: nn.Module) -> tuple[str, ...]:
    """Paths of the modules that the patterns name: `head`, `blocks.0.*`, or a type such as `Embedding`.

    Raises ConfigError for a pattern that names nothing in this model.
    """
    modules = {path: module for path, module in model.named_modules() if path}
    found: list[str] = []
    for pattern in patterns:
        hit = [path for path, module in modules.items()
               if fnmatchcase(path, pattern) or type(module).__name__ == pattern]
        if not hit:
            kinds = {type(module).__name__ for module in modules.values()}
            raise ConfigError("keep: " + unknown("layer or type", pattern, {*modules, *kinds}))
        found += hit
    return tuple(dict.fromkeys(found))


def kept(path: str, keep: Iterable[str]) -> bool:
    """Whether a module or parameter path is one of the kept ones, or lies within one."""
    return any(path == name or path.startswith(f"{name}.") for name in keep)

"""YAML that people write -> plain values; whatever the text, it is read or refused at once."""

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError


class _Loader(yaml.SafeLoader):
    """Without aliases, a few lines of which unfold to gigabytes, and without half characters."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise ComposerError(None, None, f"*{event.anchor}: aliases are not read, write the value again",
                                event.start_mark)
        return super().compose_node(parent, index)

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ConstructorError(None, None, "half a character (surrogate)", node.start_mark) from error
        return value


def plain(text: str) -> Any:
    """The values of a YAML text. Raises ValueError saying what is wrong, and where."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:  # !!int x, !!timestamp x
        raise ValueError(f"a value is not what its tag or form says: {error}") from error


def read(path: Path) -> dict[str, Any]:
    """The keys of a YAML file. Raises ValueError: unreadable, not YAML, or no keys."""
    try:
        found = plain(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(str(error)) from error
    if not isinstance(found, dict):
        raise ValueError(f"it has no keys, it is {type(found).__name__}")
    return found

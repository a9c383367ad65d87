"""What a runtime must do."""

from collections.abc import Callable
from typing import Protocol

from ...spaces.subject import Array


class Session(Protocol):
    """A loaded model file."""

    inputs: tuple[str, ...]
    fixed_batch: int | None  # the only batch size the file takes, None where any will do

    def run(self, inputs: tuple[Array, ...]) -> Array:
        """First output of one batch: inputs each (batch, ...), result (batch, ...)."""
        ...

    def bound(self, inputs: tuple[Array, ...]) -> Callable[[], None]:
        """One inference on fixed inputs with as little around it as possible, for timing."""
        ...


class Runtime(Protocol):
    """Loads files for one provider and never falls back to another in silence."""

    provider: str

    @staticmethod
    def missing() -> str | None:
        """What to install, or None when it can be used."""
        ...

    @staticmethod
    def version() -> str: ...

    @staticmethod
    def load(content: bytes, threads: int) -> Session:
        """Raises GateError when the file does not load or would run elsewhere."""
        ...

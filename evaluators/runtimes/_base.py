"""What a runtime must do."""

from collections.abc import Callable, Mapping
from typing import Protocol

from ...errors import GateError
from ...spaces.subject import Array

LEAST_SHARE = 0.5  # of the nodes, below which a figure is not one of that provider


class Session(Protocol):
    """A loaded model file."""

    inputs: tuple[str, ...]
    fixed_batch: int | None  # the only batch size the file takes, None where any will do
    provider_share: Mapping[str, float]  # provider -> share of the nodes that it runs

    def run(self, inputs: tuple[Array, ...]) -> Array:
        """First output of one batch: inputs each (batch, ...), result (batch, ...)."""
        ...

    def bound(self, inputs: tuple[Array, ...]) -> Callable[[], None]:
        """One inference on fixed inputs with as little around it as possible, for timing.

        Raises UserError where the runtime has no clock that means anything.
        """
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


def check_share(
    shares: Mapping[str, float], provider: str, least: float = LEAST_SHARE, others: str = ""
) -> None:
    """Raises GateError when `provider` runs less than `least` of the nodes; `others`: what it leaves."""
    mine = shares.get(provider, 0.0)
    if mine < least:
        rest = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if name != provider)
        raise GateError(f"{provider} runs {mine:.0%} of the nodes, at least {least:.0%} must; "
                        f"the rest: {rest}" + (f" ({others})" if others else ""))

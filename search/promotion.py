"""Successive halving of a search's trainings: which of them are to be trained on, as parameters."""

from collections.abc import Callable, Mapping
from typing import Any

from ..spaces.space import EPOCHS, Space, Values
from .front import Losses
from .halving import Halving


class Promotions:
    """`losses` reads the objectives of a complete outcome, every one to be small."""

    def __init__(self, space: Space, losses: Callable[[Mapping[str, Any]], Losses]) -> None:
        self._space, self._losses = space, losses
        self._halving = Halving(space.scope.rungs)
        self._spelled: dict[str, Values] = {}  # training -> parameters that spell it

    def note(self, values: Values, outcome: Mapping[str, Any]) -> None:
        """What one candidate came to; nothing where it was not trained, or broke a budget."""
        training = self._space.training(values)
        if training and outcome.get("state") == "complete" and not outcome["broken"]:
            name, epochs = training
            self._spelled.setdefault(name, dict(values))
            self._halving.tell(name, epochs, self._losses(outcome))

    def due(self) -> list[Values]:
        """Those that go on, at their next number of epochs; each is named once."""
        return [{**self._spelled[str(name)], EPOCHS: epochs} for name, epochs in self._halving.ask()]

    def is_begun(self, values: Values) -> bool:
        """Whether it is at the first of several rungs: its variants can wait until it goes on."""
        training = self._space.training(values)
        return training is not None and training[1] == self._halving.rungs[0]

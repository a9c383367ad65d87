"""The joint, conditional space: which knobs are active together, and which recipe they spell."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ..errors import ConfigError, unknown
from .knob import Choice, Knob, Value
from .passes import FILE, PASSES, Scope
from .recipe import Recipe

Values = dict[str, Value]
Wish = Mapping[str, bool | Mapping[str, object]]  # technique -> off/on, or narrowed knobs

PRUNE, RECOVER, PRECISION, NONE = "prune", "recover", "precision", "none"


@dataclass(frozen=True, slots=True)
class Space:
    """Knobs by full name (`prune.ratio.stage1`), over the techniques that are of use here."""

    scope: Scope
    knobs: Mapping[str, Knob]
    left_out: Mapping[str, str]  # technique -> why

    def walk(self, pick: Callable[[str, Knob], Value]) -> Values:
        """One value for every active knob; which ones are active depends on the earlier picks."""
        values: Values = {}
        for name in (PRUNE, PRECISION):
            values[name] = pick(name, self.knobs[name])
            for technique in self._opened(name, values[name]):
                for knob in self._of(technique):
                    values[knob] = pick(knob, self.knobs[knob])
        return values

    def decode(self, values: Mapping[str, Value]) -> Recipe:
        """The recipe that the values spell; settings that do nothing leave no step."""
        steps = []
        for name in (PRUNE, PRECISION):
            for technique in self._opened(name, values[name]):
                mine = {k.partition(".")[2]: values[k] for k in self._of(technique)}
                step = PASSES[technique].decode(mine, self.scope)
                if step is None:
                    break  # pruning nothing: there is nothing to recover from either
                steps.append(step)
        return Recipe(tuple(steps))

    def anchors(self) -> list[Values]:
        """The untouched model, then the known-good recipes, each snapped to the narrowed knobs."""
        precisions = [NONE, *(n for n in ("fp16", "int8_static") if n in self._precisions)]
        found = [self._setting(None, precision, 0) for precision in precisions]
        if True in self.knobs[PRUNE]:
            for choice in range(len(PASSES[PRUNE].usual(self.scope))):
                for precision in precisions[::2] if "fp16" in precisions else precisions:
                    found.append(self._setting(choice, precision, 0))
        return [found[i] for i, recipe in enumerate(map(self.decode, found))
                if recipe not in map(self.decode, found[:i])]

    def siblings(self, values: Mapping[str, Value]) -> list[Values]:
        """Every post-training variant, at its usual settings, of what the values train."""
        trained = {k: v for k, v in values.items() if k.split(".")[0] in (PRUNE, RECOVER)}
        variants: list[Values] = [{PRECISION: NONE}]
        for technique in self._precisions:
            for setting in PASSES[technique].usual(self.scope):
                variants.append({PRECISION: technique, **self._snapped(technique, setting)})
        return [{**trained, **variant} for variant in variants]

    @property
    def _precisions(self) -> tuple[str, ...]:
        knob = self.knobs[PRECISION]
        return tuple(str(o) for o in knob.options if o != NONE) if isinstance(knob, Choice) else ()

    def _setting(self, pruned: int | None, precision: str, choice: int) -> Values:
        values: Values = {PRUNE: pruned is not None}
        if pruned is not None:
            values |= self._snapped(PRUNE, PASSES[PRUNE].usual(self.scope)[pruned])
            values |= self._snapped(RECOVER, PASSES[RECOVER].usual(self.scope)[0])
        values[PRECISION] = precision
        if precision != NONE:
            values |= self._snapped(precision, PASSES[precision].usual(self.scope)[choice])
        return values

    def _snapped(self, technique: str, setting: Mapping[str, Value]) -> Values:
        full = {f"{technique}.{name}": value for name, value in setting.items()}
        return {name: self.knobs[name].nearest(full[name]) for name in self._of(technique)}

    def _opened(self, name: str, value: Value) -> Iterator[str]:
        if name == PRUNE:
            yield from (PRUNE, RECOVER) if value else ()
        elif value != NONE:
            yield str(value)

    def _of(self, technique: str) -> Iterator[str]:
        return (name for name in self.knobs if name.startswith(f"{technique}."))


def build(scope: Scope, wish: Wish) -> Space:
    """The space over every technique of use here that `wish` leaves on, its knobs narrowed by it.

    Raises ConfigError: unknown technique or knob, a value out of range, a technique asked for that
    is of no use on this model.
    """
    check_names(wish)
    left_out = {name: why for name in PASSES if (why := _left_out(name, scope, wish))}
    used = [name for name in PASSES if name not in left_out]
    knobs: dict[str, Knob] = {PRUNE: Choice((False, True) if PRUNE in used else (False,)),
                              PRECISION: Choice((NONE, *(n for n in FILE if n in used)))}
    for name in used:
        own = PASSES[name].knobs(scope)
        knobs |= {f"{name}.{k}": v for k, v in _narrowed(name, own, wish.get(name, True)).items()}
    return Space(scope, knobs, left_out)


def check_names(wish: Wish) -> None:
    """Raises ConfigError for an unknown technique; needs no model, so it can be asked at once."""
    for technique in wish:
        if technique not in PASSES:
            raise ConfigError("space: " + unknown("technique", technique, PASSES))


def _left_out(name: str, scope: Scope, wish: Wish) -> str | None:
    if wish.get(name) is False:
        return "switched off in the run file"
    reason = PASSES[name].refused(scope)
    if reason and name in wish:
        raise ConfigError(f"space: {name} cannot be used on this model: {reason}")
    return reason


def _narrowed(
    technique: str, knobs: dict[str, Knob], wish: bool | Mapping[str, object]
) -> dict[str, Knob]:
    """`wish` names a knob, or the first part of a name (`ratio` stands for every stage's)."""
    if isinstance(wish, bool):
        return knobs
    narrowed = dict(knobs)
    for part, value in wish.items():
        hit = [name for name in knobs if name == part or name.startswith(f"{part}.")]
        if not hit:
            raise ConfigError(f"space.{technique}: " + unknown("knob", part, knobs))
        for name in hit:
            try:
                narrowed[name] = knobs[name].narrowed(value)
            except ConfigError as error:
                raise ConfigError(f"space.{technique}.{part}: {error}") from error
    return narrowed

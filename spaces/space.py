"""The joint, conditional space: which knobs are active together, and which recipe they spell."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ..errors import ConfigError, unknown
from ..hardware_profiles.profile import Ability
from . import legal
from .knob import Choice, Knob, Value
from .passes import FILE, MODULE, PASSES, TRAINING, TUNING, Scope
from .passes.recover import nearest_rung
from .recipe import Recipe

Values = dict[str, Value]
Wish = Mapping[str, bool | Mapping[str, object]]  # technique -> off/on, or narrowed knobs
Pick = Callable[[str, Knob], Value]

# What starts from nothing needs another of the usual settings of what comes along with it.
LONGER = {"student": {"recover": 1}}

# Formats whose usual settings lie all along a budget: all of them for the untouched model, the first after
# a training.
SPREAD = ("mixed", "mixed_int8")

PRUNE, RECOVER, PRECISION, NONE = "prune", "recover", "precision", "none"
EPOCHS = "recover.epochs"  # how long a training is, which rungs take the place of


@dataclass(frozen=True, slots=True)
class Space:
    """Switches by technique, knobs by full name (`prune.ratio.stage1`), over what is of use here."""

    scope: Scope
    knobs: Mapping[str, Knob]
    left_out: Mapping[str, str]  # technique -> why

    def walk(self, pick: Pick) -> Values:
        """One value for every active knob; which ones are active depends on the earlier picks."""
        values: Values = {}
        chosen: list[str] = []
        for switch in self._switches:
            for technique in self._turned_on(switch, chosen, values, pick):
                if technique not in chosen:
                    chosen.append(technique)
                    self._turn(technique, values, pick)
        return values

    def decode(self, values: Mapping[str, Value]) -> Recipe:
        """The recipe that the values spell; settings that do nothing leave no step."""
        steps = {}
        for technique in self.spelled(values):
            step = PASSES[technique].decode(own(technique, values), self.scope)
            if step is not None:
                steps[technique] = step
        if not any(name in MODULE for name in steps) and not values.get(RECOVER):
            steps.pop(RECOVER, None)  # nothing was cut: there is nothing to recover from
        return Recipe(tuple(step for name, step in steps.items()
                            if not legal.objection(name, list(steps)[: list(steps).index(name)])))

    def spelled(self, values: Mapping[str, Value]) -> list[str]:
        """The techniques that the values turn on, in the order of a recipe."""
        on = {name for name in self._switches if values.get(name) is True}
        on |= {str(value) for name, value in values.items() if _is_format(name)} - {NONE}
        on |= {brought for name in on for brought in self._brought(name)}
        return [name for name in legal.ORDER if name in on]

    def snapped(self, values: Mapping[str, Value]) -> Values:
        """Values of another space at the nearest that there is here."""
        return self.walk(lambda name, knob: knob.nearest(values.get(name, False)))

    def exact(self, values: Mapping[str, Value]) -> Values:
        """Each on its step again: whoever adds steps up as Optuna does is off in the last digit."""
        return {name: self.knobs[name].nearest(value) for name, value in values.items()}

    def anchors(self) -> list[Values]:
        """The untouched model, then the known-good recipes, each snapped to the narrowed knobs."""
        formats = [NONE, *(n for n in ("fp16", "int8_static") if n in self.formats)]
        found = [self.setting({}, precision) for precision in formats]
        structure = sorted(legal.STRUCTURE, key=lambda name: name != PRUNE)  # the surest gain first
        for technique in (name for name in structure if name in self.knobs):
            for choice in range(len(PASSES[technique].usual(self.scope))):
                for precision in formats[::2] if "fp16" in formats else formats:
                    on = {technique: choice, **LONGER.get(technique, {})}
                    found.append(self.setting(on, precision))
        found += [self.setting({name: choice}, name) for name in SPREAD if name in self.formats
                  for choice in range(len(PASSES[name].usual(self.scope)))]
        for name in (name for name in TUNING if name in self.knobs):  # on the most usual format for it
            able = [precision for precision in self.formats if precision in legal.REQUIRES[name]]
            found += [self.setting({name: 0}, precision) for precision in able[:1]]
        return self._distinct(found)

    def training(self, values: Mapping[str, Value]) -> tuple[str, int] | None:
        """A name for a training whatever its number of epochs, and that number; None where there is none."""
        if EPOCHS not in values or not (rungs := self.scope.rungs):
            return None
        most = self.decode({**values, EPOCHS: rungs[-1]})
        return most.prefix.digest, nearest_rung(rungs, int(values[EPOCHS]))

    def siblings(self, values: Mapping[str, Value]) -> list[Values]:
        """Every post-training variant, at its usual settings, of what the values train."""
        technique = (MODULE | TRAINING).keys()
        trained = {k: v for k, v in values.items() if k.split(".")[0] in technique}
        switch = self._format_switch(self.spelled(trained))
        variants: list[Values] = [{switch: NONE}]
        for name in (option for option in self.formats if option in self.knobs[switch]):
            if self._brought(name):
                continue  # of no use without a training of its own
            usual = PASSES[name].usual(self.scope)
            for setting in usual[:1] if name in SPREAD else usual:
                variants.append({switch: name, **self._snapped(name, setting)})
        return [{**trained, **variant} for variant in variants]

    @property
    def deciding(self) -> tuple[str, ...]:
        """The knobs by which others are active or not."""
        opening = {f"{technique}.{rule[0]}" for technique in PASSES
                   for rule in PASSES[technique].only_if.values()}
        return tuple(name for name in self.knobs if name in PASSES or name in opening or _is_format(name))

    @property
    def formats(self) -> tuple[str, ...]:
        """The number formats that are of use here."""
        knob = self.knobs[PRECISION]
        return tuple(str(o) for o in knob.options if o != NONE) if isinstance(knob, Choice) else ()

    @property
    def transfers(self) -> tuple[str, ...]:
        """What of the inside of the untouched model some recipe may ask for."""
        knob = self.knobs.get("recover.transfer")
        return tuple(str(o) for o in knob.options if o != NONE) if isinstance(knob, Choice) else ()

    def setting(self, on: Mapping[str, int], precision: str) -> Values:
        """Techniques -> which of their usual settings, and a number format at its most usual one."""
        usual: Values = {name: True for name in on}
        usual |= {name: precision for name in self.knobs if _is_format(name)}
        for name in self.spelled(usual):
            usual |= self._full(name, PASSES[name].usual(self.scope)[on.get(name, 0)])

        def pick(name: str, knob: Knob) -> Value:
            return knob.nearest(usual[name]) if name in usual else knob.nearest(False)

        return self.walk(pick)

    @property
    def _switches(self) -> tuple[str, ...]:
        """In the order of a recipe; number formats share one."""
        names = [PRECISION if name in FILE else name for name in legal.ORDER]
        return tuple(name for name in dict.fromkeys(names) if name in self.knobs)

    def _format_switch(self, chosen: list[str]) -> str:
        """The switch of number formats that offers only what may follow those techniques."""
        narrower = (f"{PRECISION}.{name}" for name in chosen)
        return next((switch for switch in narrower if switch in self.knobs), PRECISION)

    def _turned_on(self, switch: str, chosen: list[str], values: Values, pick: Pick) -> list[str]:
        """The techniques that one switch turns on, after those already chosen."""
        if switch in chosen or legal.objection(switch, chosen):
            return []
        if switch == PRECISION:
            switch = self._format_switch(chosen)
        values[switch] = pick(switch, self.knobs[switch])
        name = str(values[switch]) if _is_format(switch) else switch
        return [name, *self._brought(name)] if values[switch] not in (False, NONE) else []

    def _turn(self, technique: str, values: Values, pick: Pick) -> None:
        """Picks the knobs of one technique, those that others of its knobs open included."""
        for knob in self._of(technique):
            if self._is_open(technique, knob, values):
                values[knob] = pick(knob, self.knobs[knob])

    def _is_open(self, technique: str, knob: str, values: Mapping[str, Value]) -> bool:
        rules = PASSES[technique].only_if
        own = knob.partition(".")[2]
        rule = rules.get(own) or rules.get(own.partition(".")[0])
        return rule is None or values.get(f"{technique}.{rule[0]}") in rule[1]

    def _brought(self, technique: str) -> list[str]:
        return [name for name in legal.BRINGS.get(technique, ()) if name not in self.left_out]

    def _distinct(self, found: list[Values]) -> list[Values]:
        recipes = [self.decode(values) for values in found]
        return [found[i] for i, recipe in enumerate(recipes) if recipe not in recipes[:i]]

    def _full(self, technique: str, setting: Mapping[str, Value]) -> Values:
        return {f"{technique}.{name}": value for name, value in setting.items()}

    def _snapped(self, technique: str, setting: Mapping[str, Value]) -> Values:
        full = self._full(technique, setting)
        return {name: self.knobs[name].nearest(full[name]) for name in self._of(technique) if name in full}

    def _of(self, technique: str) -> Iterator[str]:
        return (name for name in self.knobs if name.startswith(f"{technique}."))


def own(technique: str, values: Mapping[str, Value]) -> Values:
    """The values of one technique's knobs, by the names that it gave them."""
    return {k.partition(".")[2]: v for k, v in values.items() if k.startswith(f"{technique}.")}


def build(scope: Scope, wish: Wish, size_counts: bool = True) -> Space:
    """The space over every technique of use here that `wish` leaves on, its knobs narrowed by it.

    Where size counts for nothing, techniques that no profile turns into speed are left out, unless
    `wish` names them.

    Raises ConfigError: unknown technique or knob, a value out of range, a technique asked for that
    is of no use on this model.
    """
    check_names(wish)
    left_out = {name: why for name in PASSES if (why := _left_out(name, scope, wish, size_counts))}
    _check_rungs(scope, wish, left_out)
    used = [name for name in PASSES if name not in left_out]
    knobs: dict[str, Knob] = {name: Choice((False, True)) for name in used if _has_switch(name)}
    knobs |= _format_switches(used)
    for name in used:
        own = PASSES[name].knobs(scope)
        knobs |= {f"{name}.{k}": v for k, v in _narrowed(name, own, wish.get(name, True)).items()}
    return Space(scope, knobs, left_out)


def _check_rungs(scope: Scope, wish: Wish, left_out: Mapping[str, str]) -> None:
    """Raises ConfigError where rungs have nothing to decide, or something else decides it."""
    if scope.rungs and RECOVER in left_out:
        raise ConfigError(f"search.rungs: nothing is trained here: recover is {left_out[RECOVER]}")
    wished = wish.get(RECOVER, True)
    if scope.rungs and isinstance(wished, Mapping) and "epochs" in wished:
        raise ConfigError("search.rungs and space.recover.epochs both say how long to train; leave one out")


def check_names(wish: Wish) -> None:
    """Raises ConfigError for an unknown technique; needs no model, so it can be asked at once."""
    for technique in wish:
        if technique not in PASSES:
            raise ConfigError("space: " + unknown("technique", technique, PASSES))


def _format_switches(used: list[str]) -> dict[str, Knob]:
    """`precision`, and beside it `precision.T` where fewer formats may follow technique T."""
    formats = tuple(name for name in legal.FORMATS if name in used)
    switches: dict[str, Knob] = {PRECISION: Choice((NONE, *formats))}
    for technique in (name for name in legal.STRUCTURE if name in used):
        able = tuple(name for name in formats if not legal.objection(name, [technique]))
        if able != formats:
            switches[f"{PRECISION}.{technique}"] = Choice((NONE, *able))
    return switches


def _is_format(switch: str) -> bool:
    return switch.partition(".")[0] == PRECISION


def _has_switch(name: str) -> bool:
    return name not in FILE


def abilities(name: str, scope: Scope) -> set[Ability | None]:
    """What a technique asks of a machine, over its usual settings, to be speed and not only size."""
    technique = PASSES[name]
    steps = [technique.decode(setting, scope) for setting in technique.usual(scope)]
    return {technique.needs(step) for step in steps if step is not None} or {technique.ability}


def _left_out(name: str, scope: Scope, wish: Wish, size_counts: bool) -> str | None:
    if wish.get(name) is False:
        return "switched off in the run file"
    reason = PASSES[name].refused(scope)
    if reason and name in wish:
        raise ConfigError(f"space: {name} cannot be used on this model: {reason}")
    if not reason and not size_counts and name not in wish and _only_shrinks(name, scope):
        names = ", ".join(profile.name for profile in scope.profiles)
        return f"only shrinks the file on {names}, and size is neither an objective nor budgeted"
    return reason


def _only_shrinks(name: str, scope: Scope) -> bool:
    needs = abilities(name, scope)
    return not any(scope.uses(need) for need in needs)


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

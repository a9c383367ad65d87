"""What pared can do to a model, technique by technique: knobs, papers, and who turns it into speed."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from ..hardware_profiles.kernel import Kernel
from ..hardware_profiles.profile import HardwareProfile
from ..spaces import legal
from ..spaces.knob import Choice, IntRange, Knob
from ..spaces.passes import FILE, MODULE, PASSES, TRAINING, Scope
from ..spaces.sensitivity import BITS, RATIOS, Layer, Sensitivity
from ..spaces.space import abilities

SPEED, SIZE, NEITHER = "speed", "size only", "accuracy"


def techniques(profiles: Sequence[HardwareProfile]) -> list[dict[str, Any]]:
    """Every technique, in the order in which a recipe takes them, as plain JSON.

    Knobs are those of a model that has everything: a technique offers the ones that fit a model.
    """
    scope = everything(profiles)
    return [_row(name, scope) for name in legal.ORDER if name in PASSES]


def everything(profiles: Sequence[HardwareProfile]) -> Scope:
    """What a model would be told of in which every technique has a place."""
    layer = Layer("MatMul", 256, 256, (Kernel("mm", 65_536, 65_536, 256, 256, 256, 256, 1, 1),))
    names = ("first", "second")
    known = Sensitivity({name: {bits: 1 / bits for bits in BITS} for name in names},
                        {name: {ratio: ratio for ratio in RATIOS} for name in names},
                        dict.fromkeys(names, 0.1), dict.fromkeys(names, layer), 1)
    shares = dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), 0.25)
    return Scope(("STAGE",), shares, tuple(profiles), heads={"ATTENTION": 4}, blocks=names, factors=names,
                 students=("STUDENT",), sensitivity=known, taps=names)


def _row(name: str, scope: Scope) -> dict[str, Any]:
    technique = PASSES[name]
    return {
        "name": name, "kind": _kind(name), "does": technique.does, "paper": technique.paper,
        "knobs": {knob: _plain(found) | _condition(knob, technique.only_if)
                  for knob, found in technique.knobs(scope).items()},
        "profiles": {profile.name: _use(name, profile, scope) for profile in scope.profiles},
        **_company(name),
    }


def _kind(name: str) -> str:
    return ("module" if name in MODULE else "training" if name in TRAINING
            else "file" if name in FILE else "tuning")


def _use(name: str, profile: HardwareProfile, scope: Scope) -> str:
    """What the technique is good for there; training costs nothing and gains nothing but accuracy."""
    if name in TRAINING:
        return NEITHER
    return SPEED if any(profile.uses(need) for need in abilities(name, scope)) else SIZE


def _plain(knob: Knob) -> dict[str, Any]:
    if isinstance(knob, Choice):
        return {"type": "choice", "options": list(knob.options)}
    kind = "integer" if isinstance(knob, IntRange) else "real"
    return {"type": kind, "low": knob.low, "high": knob.high, "step": knob.step, "log": knob.log}


def _condition(knob: str, rules: Mapping[str, tuple[str, tuple[Any, ...]]]) -> dict[str, Any]:
    rule = rules.get(knob) or rules.get(knob.partition(".")[0])
    return {"only_if": {"knob": rule[0], "values": list(rule[1])}} if rule else {}


def _company(name: str) -> dict[str, Any]:
    """What it combines with, from the tables that recipes are checked by."""
    known = [other for other in legal.ORDER if other in PASSES]
    excluded = [other for other in known if other != name and _exclude({name, other})]
    return {"excludes": excluded, "needs_one_of": _listed(legal.REQUIRES.get(name, ()), known),
            "brings": _listed(legal.BRINGS.get(name, ()), known),
            "combines_with": [other for other in known if other != name and _fit(name, other)]}


def _fit(one: str, other: str) -> bool:
    """Whether a recipe can hold both, with what each needs before it."""
    return any(not _exclude({one, other, *needed})
               for needed in product(legal.REQUIRES.get(one, {one}), legal.REQUIRES.get(other, {other})))


def _exclude(names: set[str]) -> bool:
    return any(len(group & names) > 1 for group in legal.EXCLUSIVE)


def _listed(names: Iterable[str], known: Sequence[str]) -> list[str]:
    wanted = set(names)
    return [name for name in known if name in wanted]

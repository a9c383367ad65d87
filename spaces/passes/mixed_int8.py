"""8 bits or float, layer by layer: float where rounding hurts most for the time that it costs.

The summed sensitivity to 8-bit weights and inputs is minimised under a budget of predicted latency, as an
integer program (HAWQ-V3, Yao et al. 2021, arXiv:2011.10680). A float layer among 8-bit ones costs
conversions too, which depend on its neighbours: so the finished file is read as it will run, and float
layers go back to 8 bits until it is within the budget.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import onnx

from ...errors import GateError
from ...hardware_profiles.graph import read
from ...hardware_profiles.kernel import Kernel
from ...hardware_profiles.profile import HardwareProfile
from .._milp import cheapest
from ..knob import Choice, FloatRange, Knob, Value
from . import _onnx
from ._base import Calibration, FilePass, Left, Scope
from ._int8_cost import Prices, cost_us, prices
from .int8_static import TYPES, Int8Static, Int8StaticPass, left

UNIFORM = Int8StaticPass()


@dataclass(frozen=True, slots=True)
class MixedInt8:
    """`floats` are the weights of the float layers, the most needed first, `int8` those of the others.

    `share`: how much of the way from the predicted time of an 8-bit file to that of a float one may be
    used. `machine` (kind of the profile) and `prices` are what that time is predicted by.
    """

    floats: tuple[str, ...]
    int8: tuple[str, ...]
    share: float
    activations: str
    operators: str
    machine: str
    prices: Prices

    def __str__(self) -> str:
        return f"int8, {len(self.floats)} layers in float"


class MixedInt8Pass(FilePass):
    """`MixedInt8`, see the module."""

    name = "mixed_int8"
    does = "8-bit weights and activations but for the layers that mind most, under a budget of latency"
    paper = "HAWQ-V3, arXiv:2011.10680"
    ability = "int8"
    step = MixedInt8
    tolerance = UNIFORM.tolerance

    def refused(self, scope: Scope) -> str | None:
        if reason := UNIFORM.refused(scope):
            return reason
        if _machine(scope) is None:
            return "no device of the run computes in 8 bits"
        return None if len(_layers(scope)) > 1 else "no two layers with a known sensitivity"

    def knobs(self, scope: Scope) -> dict[str, Knob]:
        return {"float_share": FloatRange(0.05, 0.95, step=0.05), "activations": Choice(tuple(TYPES))}

    def usual(self, scope: Scope) -> tuple[dict[str, Value], ...]:
        activations = UNIFORM.usual(scope)[0]["activations"]
        return tuple({"float_share": share, "activations": activations} for share in (0.15, 0.4))

    def decode(self, values: Mapping[str, Value], scope: Scope) -> MixedInt8 | None:
        machine = _machine(scope)
        assert machine is not None and scope.sensitivity is not None  # refused otherwise
        share, charged = float(values["float_share"]), prices(machine)
        costs = _extra(_layers(scope), machine.kind, charged)
        rises = {name: scope.sensitivity.int8[name] for name in costs}
        chosen = cheapest({name: {True: 0.0, False: rise} for name, rise in rises.items()},
                          {name: {True: cost, False: 0.0} for name, cost in costs.items()},
                          share * sum(costs.values())) or {}
        floats = sorted((name for name in chosen if chosen[name]), key=lambda n: (-rises[n] / costs[n], n))
        if not floats:
            return None
        others = tuple(sorted(rises.keys() - set(floats)))
        return MixedInt8(tuple(floats), others, share, str(values["activations"]),
                         str(UNIFORM.usual(scope)[0]["operators"]), machine.kind, charged)

    def leaves(self, values: Mapping[str, Value], scope: Scope) -> Left:
        return left(scope, float(values["float_share"]))

    def apply(
        self, step: MixedInt8, model: onnx.ModelProto, data: Calibration, keep: Set[str] = frozenset()
    ) -> onnx.ModelProto:
        """The file with as many of the float layers, from the first on, as the budget takes."""
        known = [name for name in step.floats if name in _onnx.weights(model)]

        def made(count: int) -> onnx.ModelProto:
            return UNIFORM.apply(_uniform(step), model, data, keep | set(known[:count]))

        low, high = predicted(made(0), step), predicted(model, step)
        limit = low + step.share * max(0.0, high - low)
        fit, over = 0, len(known) + 1  # the least count that is over the limit lies after the greatest within
        best = None
        while over - fit > 1:
            count = (fit + over) // 2
            file = made(count)
            if predicted(file, step) <= limit:
                fit, best = count, file
            else:
                over = count
        if best is None:
            raise GateError(f"{step}: not even {known[:1]} in float is within {step.share:.0%} of the way "
                            "from the predicted time of an 8-bit file to that of a float one")
        return best

    def check(self, step: MixedInt8, before: onnx.ModelProto, after: onnx.ModelProto) -> None:
        """Layers are in float from the first wanted one on, all others in 8 bits."""
        UNIFORM.check(_uniform(step), before, after)
        was = {node.name: node.input[1] for node in before.graph.node if node.op_type in _onnx.WEIGHTED}
        still = set(_onnx.weights(after))
        known = [name for name in step.floats if name in was.values()]
        count = sum(name in still for name in known)
        if not count or any(name not in still for name in known[:count]):
            raise GateError("mixed_int8: the layers that mind most are not those in float")
        if wrong := sorted(still & set(step.int8)):
            raise GateError(f"mixed_int8 left {', '.join(wrong[:3])} in float")


def predicted(model: onnx.ModelProto, step: MixedInt8) -> float:
    """Microseconds of the file as ONNX Runtime rewrites it, by the prices of the step."""
    return cost_us(read(bytes(model.SerializeToString())), step.machine, step.prices)


def _uniform(step: MixedInt8) -> Int8Static:
    return Int8Static("minmax", step.activations, True, step.operators)


def _machine(scope: Scope) -> HardwareProfile | None:
    """The first device that gains from 8 bits, else the first that can."""
    able = [profile for profile in scope.profiles if "int8" in profile.precisions]
    return next((profile for profile in able if profile.uses("int8")), next(iter(able), None))


def _layers(scope: Scope) -> dict[str, tuple[Kernel, ...]]:
    known = scope.sensitivity
    return {name: layer.kernels for name, layer in known.layers.items()
            if layer.kernels and name in known.int8} if known else {}


def _extra(layers: Mapping[str, Sequence[Kernel]], kind: str, charged: Prices) -> dict[str, float]:
    """Microseconds that each layer costs more in float than in 8 bits, conversions at both ends included."""
    found = {}
    for name, kernels in layers.items():
        crossings = [Kernel("quant", 0, 0, n, n, 1, 1, 1, 1, "int8")
                     for kernel in kernels for n in (kernel.in_elems, kernel.out_elems)]
        floats = cost_us([*(replace(k, dtype="fp32") for k in kernels), *crossings], kind, charged)
        found[name] = max(1e-3, floats - cost_us([replace(k, dtype="int8") for k in kernels], kind, charged))
    return found

"""Every upper limit of a run, in units: what the user allows, and what the devices have."""

from collections.abc import Iterable, Mapping

from ..errors import BudgetError
from ..hardware_profiles.profile import HardwareProfile
from .budget import parse
from .config import ProfileBudget, RunConfig
from .cost import ram_bytes
from .records import Untouched


def limits(config: RunConfig, untouched: Untouched) -> dict[str, float]:
    """Metric -> upper limit in its unit: the budgets of the run file, and each device's RAM and flash."""
    found = {}
    if config.budgets.size is not None:
        found["size_bytes"] = parse(config.budgets.size, "size").resolved(untouched.size_bytes)
    for machine in config.machines:
        budget = config.budgets.profiles.get(machine.name, ProfileBudget())
        if budget.latency is not None:
            found[f"latency_ms@{machine.name}"] = latency_limit(budget.latency, machine.name, untouched)
        found |= _memory(machine, budget, untouched)
    return found


def size_counts(config: RunConfig) -> bool:
    """Whether a smaller file is worth anything in itself: an objective, a budget, or a device's flash."""
    budgets = config.budgets
    return ("size" in config.objectives or budgets.size is not None
            or any(budget.memory is not None for budget in budgets.profiles.values())
            or any(machine.memory.flash_limit for machine in config.machines))


def latency_limit(text: str | float, profile: str, untouched: Untouched) -> float:
    """In ms. Raises BudgetError for a relative one where the untouched model does not run."""
    budget = parse(text, "latency")
    reference = untouched.latency_ms.get(profile)
    if reference is None and budget.relative:
        why = untouched.absent.get(profile, "no figure")
        raise BudgetError(f"latency budget {text!r} on {profile} is relative to the untouched model, which "
                          f"does not run there ({why}); write it in ms")
    return budget.resolved(reference or 1.0)


def on_profile(limits: Mapping[str, float], profiles: Iterable[str]) -> dict[str, float]:
    """The limits that hold for these profiles: their own, and those that are everyone's."""
    names = set(profiles)
    return {metric: limit for metric, limit in limits.items()
            if "@" not in metric or metric.partition("@")[2] in names}


def nowhere(over: Iterable[str], profiles: Iterable[str]) -> bool:
    """Whether what is over its limits leaves no profile on which the candidate could be used."""
    broken = list(over)
    return any("@" not in metric for metric in broken) or all(
        any(metric.endswith(f"@{name}") for metric in broken) for name in profiles)


def _memory(machine: HardwareProfile, budget: ProfileBudget, untouched: Untouched) -> dict[str, float]:
    """The lesser of what the user allows and what the device has."""
    ram = [machine.memory.ram_limit.base] if machine.memory.ram_limit else []
    if budget.memory is not None:
        needs = ram_bytes(untouched.memory_bytes, untouched.size_bytes, machine)
        ram.append(parse(budget.memory, "memory").resolved(needs))
    flash = machine.memory.flash_limit
    return ({f"memory_bytes@{machine.name}": min(ram)} if ram else {}) | (
        {f"flash_bytes@{machine.name}": flash.base} if flash else {})

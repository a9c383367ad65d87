"""What to say about a choice: its caveats, or why nothing could be chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .budget import broken
from .candidate import Candidate
from .labels import between


def noted(chosen: Candidate, profiles: Sequence[str], drop: float | None) -> Candidate:
    """The candidate with what its user should know."""
    notes = [note for name in profiles for note in _on(chosen, name)]
    return replace(chosen, profiles=tuple(profiles), notes=(*chosen.told, *_accuracy(chosen, drop), *notes))


def miss(
    candidates: Sequence[Candidate], profiles: Sequence[str], allowed: Mapping[str, float], drop: float | None
) -> str:
    """Why nothing was chosen: the nearest that was found, and how far off it is."""
    running = [c for c in candidates if c.runs_on(profiles)]
    if not running:
        return _nowhere(candidates, profiles)
    accurate = [c for c in running if drop is None or c.lost(profiles) <= drop]
    if not accurate:
        best = min(running, key=lambda c: c.lost(profiles))
        return (f"nothing loses at most {drop:.4g}; the least lost is {best.lost(profiles):.4f} "
                f"(trial {best.trial}, {best.recipe.label})")
    near = min(accurate, key=lambda c: max(broken(allowed, c.metrics).values(), default=0))
    parts = [f"{name} {near.metrics[name].value:.4g} against {allowed[name]:.4g} "
             f"{near.metrics[name].unit}, {1 + share:.2f}x over"
             for name, share in broken(allowed, near.metrics).items()]
    fastest = min(accurate, key=lambda c: c.slowness(profiles))
    times = ", ".join(f"{fastest.latency(name).value:.4g} ms on {name}" for name in profiles)
    told = f" and a drop of at most {drop:.4g}" if drop is not None else ""
    return (f"nothing meets the budget{told}; the nearest is trial {near.trial} "
            f"({near.recipe.label}): {'; '.join(parts)}. The fastest found takes {times} (trial "
            f"{fastest.trial}). Relax the budget, or search longer with `pared resume DIR --trials N`")


def _nowhere(candidates: Sequence[Candidate], profiles: Sequence[str]) -> str:
    why = next((f" ({name}: {c.absent[name]})" for c in candidates for name in profiles
                if c.recipe.steps and name in c.absent), "")
    return f"no candidate has a latency on {' and '.join(profiles)}{why}"


def _accuracy(chosen: Candidate, drop: float | None) -> list[str]:
    if drop is None or not chosen.recipe.steps or chosen.drop.supports(drop):
        return []
    return [f"n = {chosen.drop.n} is too small to support a loss of at most {drop:.4g}: measured "
            f"{chosen.drop.value:+.4f}, 95 % interval {chosen.drop.low:+.4f} to {chosen.drop.high:+.4f}"]


def _on(chosen: Candidate, profile: str) -> list[str]:
    if profile in chosen.absent:
        return [f"does not run on {profile}: {chosen.absent[profile]}"]
    notes = list(chosen.remarks.get(profile, ()))
    latency = chosen.latency(profile)
    if not latency.calibrated:
        notes.append(f"the latency on {profile} is predicted and uncalibrated, good for ranking only: "
                     f"{between(latency)} ms")
    if latency.unstable:
        notes.append(f"the latency on {profile} never settled; measure it again on a quiet machine")
    if techniques := chosen.size_only.get(profile):
        notes.append(f"{', '.join(techniques)}: size only on {profile}, no speed is to be expected")
    if chosen.recipe.steps and (latency.ratio or 0) > 1:
        notes.append(f"slower than the untouched model on {profile}")
    return notes

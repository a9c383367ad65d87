"""The tables of the page. Every cell is escaped."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from ..candidate import Candidate
from ..labels import between, speed
from .story import Story


def candidates(story: Story) -> str:
    """Every scored file: what is true of it on any device."""
    head = ("trial", "recipe", "accuracy", "lost, 95 % interval", "test", "kB",
            "peak activations, kB (predicted)")
    on_front = {c.trial for front in story.fronts.values() for c in front}
    shown = sorted(story.scored, key=lambda c: (c.trial not in on_front, c.metrics["size_bytes"].value))
    return _table(head, [_file(c, c.trial in on_front) for c in shown])


def on_profile(story: Story, profile: str) -> str:
    """The files that run on one profile, fastest first."""
    head = ("trial", "recipe", f"ms {profile} ({story.labels[profile]})", "95 % interval", "speed-up",
            "accuracy", "notes")
    on_front = {c.trial for c in story.fronts[profile]}
    shown = [c for c in story.scored if c.runs_on([profile])]
    shown.sort(key=lambda c: c.latency(profile).value)
    return _table(head, [_figures(c, profile, c.trial in on_front) for c in shown])


def ends(story: Story, state: str) -> str:
    """Trials that were refused or failed, and why."""
    rows = [[str(e.trial), e.label, e.reason] for e in story.with_state(state)]
    return _table(("trial", "recipe", "why"), rows) if rows else "<p>none</p>"


def _file(c: Candidate, on_front: bool) -> list[str]:
    drop = f"{c.drop.value * 100:+.2f} ({c.drop.low * 100:+.2f}..{c.drop.high * 100:+.2f})"
    return [_trial(c, on_front), c.recipe.label, f"{c.metrics['accuracy'].value:.4f}", drop,
            f"{c.test.value:.4f}" if c.test else "", f"{c.metrics['size_bytes'].value / 1e3:.0f}",
            f"{c.metrics['memory_bytes'].value / 1e3:.0f}"]


def _figures(c: Candidate, profile: str, on_front: bool) -> list[str]:
    latency = c.latency(profile)
    return [_trial(c, on_front), c.recipe.label, f"{latency.value:.4g}", between(latency), speed(latency),
            f"{c.accuracy(profile).value:.4f}", "; ".join(_notes(c, profile))]


def _notes(c: Candidate, profile: str) -> list[str]:
    latency = c.latency(profile)
    notes = [f"{', '.join(names)}: size only"] if (names := c.size_only.get(profile)) else []
    notes += ["slower than untouched"] if (latency.ratio or 0) > 1.02 else []
    notes += ["unstable"] if latency.unstable else []
    notes += (*c.told, *c.remarks.get(profile, ()))
    if energy := c.metrics.get(f"energy_mj@{profile}"):
        notes.append(f"{energy.value:.3g} mJ ({energy.evidence})")
    if profile in c.shipped:
        notes.append(f"runs {c.shipped[profile][:12]}…{Path(c.shipped[profile]).suffix}")
    return notes


def _trial(c: Candidate, on_front: bool) -> str:
    return f"{c.trial}{' ●' if on_front else ''}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr data-trial='{escape(row[0].split()[0])}'>"
                   + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"

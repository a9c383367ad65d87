"""What people see in the terminal: progress while a search runs, short tables after it."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from ..evaluators.accuracy import Drop
from ..evaluators.measurement import Measurement
from ..hardware_profiles.profile import HardwareProfile
from ..spaces.sensitivity import BITS, RATIOS, Sensitivity
from .candidate import Candidate
from .driver import Driver
from .labels import between, label, speed
from .run import Run
from .status import left_s
from .verify import Check

QUIET_S = 10.0  # without a terminal, one line at most this often
FEW = 4  # trials of which each is told what it does
SHARE = 0.02  # of the driver's time that it may take


@contextmanager
def progress(console: Console, run: Path) -> Iterator[Callable[[Driver], None]]:
    """A watcher for the driver: a live line on a terminal, else a line now and then."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=2, transient=True) as live:
            yield _throttled(1.0, lambda driver: live.update(line(driver, Run(run, driver.study))))
    else:
        yield _throttled(QUIET_S, lambda driver: console.print(line(driver, Run(run, driver.study)),
                                                               highlight=False))


def line(driver: Driver, run: Run) -> str:
    """done / refused / failed / running, best so far, rate, time left, size of the front."""
    counts = run.counts()
    ended, target = counts.complete + counts.refused + counts.failed, driver.config.search.trials
    elapsed = max(1.0, time.time() - driver.started)
    rate = ended / elapsed
    left = _clock(left_s(target - ended, rate, driver.config.search.timeout, elapsed)) if ended else "?"
    doing = _doing([note.doing for key, note in driver.crew.notes().items() if key in driver.out])
    return (f"[bold]{ended}/{target}[/] trials: {counts.complete} done, {counts.refused} refused, "
            f"{counts.failed} failed, {len(driver.out)} running ({doing or 'final scoring'}); "
            f"best {_best(run)}; front {len(run.front()) if run.candidates else 0}; "
            f"{rate * 3600:.0f} an hour, about {left} left")


def _doing(notes: list[str]) -> str:
    """What each of a few trials does; how many of more do what."""
    if len(notes) <= FEW:
        return ", ".join(sorted(notes))
    kinds = Counter(re.sub(r",? [0-9]+%", "", note) for note in notes)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


@contextmanager
def timed(console: Console, what: str) -> Iterator[Callable[[float], None]]:
    """Takes the share done, 0-1; from two seconds on it says how far, and when it will be over."""
    began, last = time.monotonic(), 0.0

    def tell(done: float) -> None:
        nonlocal last
        spent = time.monotonic() - began
        if spent >= 2.0 and spent - last >= (0.5 if live else QUIET_S if last else 0.0):
            last = spent
            text = f"{what}: {done:.0%}, about {_clock(spent / max(done, 1e-3) - spent)} left"
            live.update(text) if live else console.print(text, highlight=False)

    live = Live(console=console, transient=True) if console.is_terminal else None
    with live or nullcontext():
        yield tell


def front_tables(run: Run) -> list[Table]:
    """The Pareto set of every profile, fastest first, the untouched model beside it."""
    return [_front(run, profile) for profile in run.config.names]


def best_line(run: Run) -> str:
    """The best single model, where there are several profiles."""
    if len(run.config.searched) == 1:
        return ""
    best = run.best_for_all()
    if best is None:
        return "best single model for all profiles: none meets every budget"
    times = ", ".join(f"{best.latency(name).value:.3g} ms on {name}" for name in best.profiles)
    return (f"best single model for all profiles: [bold]trial {best.trial}[/] ({escape(best.recipe.label)}): "
            f"{times}")


def picked_lines(chosen: Candidate, exported: Path | None = None) -> list[str]:
    """The choice in words, with what the user should know, and where it was copied to."""
    lines = [f"[bold]picked trial {chosen.trial}[/]: {escape(chosen.recipe.label)}, "
             f"{chosen.metrics['size_bytes'].value / 1e3:.0f} kB"]
    lines += [_figures(chosen, name) for name in chosen.profiles if name not in chosen.absent]
    lines.append(f"  lost on validation: {_points(chosen.drop)}")
    if chosen.test_drop:
        lines.append(f"  lost on test:       {_points(chosen.test_drop)}")
    lines += [f"  [yellow]note:[/] {escape(note)}" for note in chosen.notes]
    return [*lines, f"exported to {escape(str(exported))}"] if exported else lines


def verify_table(checks: list[Check]) -> Table:
    table = Table(title="every file of the front, scored again", title_justify="left")
    for name in ("trial", "sha256", "accuracy", "latency ratio", "result"):
        table.add_column(name)
    for c in checks:
        same = "" if c.accuracy is None else f"{c.accuracy:.4f} (was {c.reported_accuracy:.4f})"
        ratio = "" if c.ratio is None else f"{c.ratio:.3f} (was {c.reported_ratio:.3f})"
        table.add_row(str(c.trial), c.sha256[:12], same, ratio,
                      f"[red]{escape(c.problem)}[/]" if c.problem else "[green]holds[/]")
    return table


def techniques_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="techniques, in the order in which a recipe takes them", title_justify="left")
    for name in ("name", "kind", "what it does", "knobs (? where another opens it)", "speed on", "paper"):
        table.add_column(name, overflow="fold")
    for row in rows:
        knobs = [name + ("?" if "only_if" in knob else "") for name, knob in row["knobs"].items()]
        table.add_row(row["name"], row["kind"], row["does"], " ".join(knobs), _speed_on(row["profiles"]),
                      row["paper"])
    return table


def _speed_on(uses: dict[str, str]) -> str:
    names = [name for name, use in uses.items() if use == "speed"]
    if len(names) == len(uses):
        return "all"
    if not names:
        return "none: accuracy" if "accuracy" in uses.values() else "none: size only"
    return " ".join(names)


def sensitivity_tables(found: Sensitivity) -> list[Table]:
    """Layers x bits and groups x ratios: what each alone costs the outputs."""
    measured = f"squared error as a share of the outputs, {found.examples} examples"
    bits = Table(title=f"weights in fewer bits ({measured})", title_justify="left")
    for name in ("weight", *(f"{b} bits" for b in BITS), "int8 with inputs"):
        bits.add_column(name, justify="left" if name == "weight" else "right", overflow="fold")
    for name, row in found.bits.items():
        bits.add_row(escape(name), *(f"{row[b]:.1e}" for b in BITS), f"{found.int8[name]:.1e}")
    ratios = Table(title=f"channels zeroed, the least first ({measured})", title_justify="left")
    for name in ("group", *(f"{r:.0%}" for r in RATIOS)):
        ratios.add_column(name, justify="left" if name == "group" else "right", overflow="fold")
    for name, curve in found.ratios.items():
        ratios.add_row(escape(name), *(f"{curve[r]:.1e}" for r in RATIOS))
    return [bits, ratios]


def profiles_table(profiles: list[HardwareProfile]) -> Table:
    table = Table(title="hardware profiles", title_justify="left")
    for name in ("name", "kind", "latencies are", "precisions", "exploits", "what it is"):
        table.add_column(name, overflow="fold")
    for p in sorted(profiles, key=lambda p: (p.kind, p.name)):
        table.add_row(p.name, p.kind, label(p), " ".join(p.precisions), " ".join(p.exploits), escape(p.title))
    return table


def status_lines(found: dict[str, Any]) -> list[str]:
    counts, driver = found["counts"], found["driver"]
    lines = [f"{escape(found['run'])}: " + (f"driver alive on {driver['host']}, pid {driver['pid']}"
                                    if driver["alive"] else "no driver; `pared resume` goes on"),
             f"  {counts['complete']} done, {counts['refused']} refused, {counts['failed']} failed, "
             f"{counts['running']} running of {found['target']}; front {found['front']}",
             f"  {counts['trained']} trainings; sharing them saved {found['saved_share']:.0%} of the time"]
    if found["trials_per_hour"]:
        eta = _clock(found["eta_s"]) if found["eta_s"] is not None else "-"
        lines.append(f"  {found['trials_per_hour']:.0f} trials an hour, about {eta} left")
    lines += [f"  in line for {name}: {count}" for name, count in found.get("queues", {}).items()
              if count]
    if found.get("silent_nodes"):
        lines.append(f"  [yellow]nodes that do not answer:[/] {', '.join(found['silent_nodes'])}")
    if found.get("dashboard"):
        lines.append(f"  Ray dashboard: http://{found['dashboard']}")
    if copy := found["copy"]:
        lines.append(f"  copied to {copy['url']}, {copy['bytes'] / 1e3:.0f} kB of journal" + (
            f"; [yellow]behind for {copy['behind_s']:.0f} s[/], tried again: {copy['error']}"
            if copy["error"] else ""))
    return lines + [escape(f"  trial {r['trial']}: {r['doing']}, {r['age_s']:.0f} s, on {r['node']} "
                           f"(pid {r['pid']}), {r['recipe']}") for r in found["running"]]


def _front(run: Run, profile: str) -> Table:
    table = Table(title=f"Pareto set of {escape(run.place)} on {profile}", title_justify="left")
    evidence = label(run.config.machine(profile))
    energy = f"energy_mj@{profile}"
    shown = run.front(profile)
    shown = shown if run.baseline in shown else [*shown, run.baseline]
    powers = sorted({c.metrics[energy].evidence for c in shown if energy in c.metrics})
    for name in ("trial", "recipe", "validation", "points lost, 95 %", "test", f"ms ({evidence})",
                 "95 % interval", "speed-up", "kB", *(f"mJ ({kind})" for kind in powers)):
        table.add_column(name, justify="left" if name == "recipe" else "right", overflow="fold")
    for candidate in shown:
        row = _row(candidate, profile)
        row += [_energy(candidate.metrics.get(energy), kind) for kind in powers]
        table.add_row(*row, style=None if candidate.recipe.steps else "dim")
    return table


def _row(candidate: Candidate, profile: str) -> list[str]:
    test = f"{candidate.test.value:.4f}" if candidate.test else "-"
    return [str(candidate.trial), escape(candidate.recipe.label), f"{candidate.accuracy(profile).value:.4f}",
            _interval(candidate.drop) if candidate.recipe.steps else "-", test,
            *_times(candidate, profile), f"{candidate.metrics['size_bytes'].value / 1e3:.0f}"]


def _energy(metric: Measurement | None, kind: str) -> str:
    return f"{metric.value:.3g}" if metric and metric.evidence == kind else "-"


def _times(candidate: Candidate, profile: str) -> list[str]:
    if profile in candidate.absent:
        return ["does not run", "-", "-"]
    latency = candidate.latency(profile)
    return [f"{latency.value:.4g}" + ("?" if latency.unstable else ""), between(latency), speed(latency)]


def _figures(chosen: Candidate, profile: str) -> str:
    latency = chosen.latency(profile)
    faster = f"; {speed(latency)} the speed of the untouched model" if latency.ratio else ""
    energy = chosen.metrics.get(f"energy_mj@{profile}")
    power = f"; {energy.value:.3g} mJ ({energy.evidence})" if energy else ""
    file = "; a file of its own, `pick -o` copies it" if profile in chosen.shipped else ""
    return f"  {latency.value:.4g} ms on {profile} ({latency.evidence}){faster}{power}{file}"


def _best(run: Run) -> str:
    try:
        found = run.pick()
    except Exception:  # nothing fits yet, or nothing is scored yet
        return "none yet"
    return f"{speed(found.latency(found.profiles[0]))} at {found.drop.value * 100:+.1f} points lost"


def _interval(drop: Drop) -> str:
    return f"{drop.value * 100:+.2f} ({drop.low * 100:+.2f}..{drop.high * 100:+.2f})"


def _points(drop: Drop) -> str:
    return f"{_interval(drop)} points, n = {drop.n}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(max(0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _throttled(every_s: float, show: Callable[[Driver], None]) -> Callable[[Driver], None]:
    """At most so often, and for no more than a small share of the driver's time."""
    due = time.time() + 1

    def watch(driver: Driver) -> None:
        nonlocal due
        if (began := time.time()) >= due:
            show(driver)
            due = began + max(every_s, (time.time() - began) / SHARE)

    return watch

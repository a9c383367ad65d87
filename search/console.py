"""What people see in the terminal: progress while a search runs, short tables after it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ..evaluators.accuracy import Drop
from ..evaluators.measurement import Measurement
from .candidate import Candidate
from .driver import Driver
from .run import Run
from .verify import Check

QUIET_S = 10.0  # without a terminal, one line at most this often


@contextmanager
def progress(console: Console, run: Callable[[], Run]) -> Iterator[Callable[[Driver], None]]:
    """A watcher for the driver: a live line on a terminal, else a line now and then."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=2, transient=True) as live:
            yield _throttled(1.0, lambda driver: live.update(line(driver, run())))
    else:
        yield _throttled(QUIET_S, lambda driver: console.print(line(driver, run()), highlight=False))


def line(driver: Driver, run: Run) -> str:
    """done / refused / failed / running, best so far, rate, time left, size of the front."""
    counts = run.counts()
    ended, target = counts.complete + counts.refused + counts.failed, driver.config.search.trials
    rate = ended / max(1.0, time.time() - driver.started)
    left = _clock((target - ended) / rate) if ended else "?"
    doing = ", ".join(sorted(note.doing for key, note in driver.crew.notes().items() if key in driver.out))
    return (f"[bold]{ended}/{target}[/] trials: {counts.complete} done, {counts.refused} refused, "
            f"{counts.failed} failed, {len(driver.out)} running ({doing or 'final scoring'}); "
            f"best {_best(run)}; front {len(run.front()) if run.candidates else 0}; "
            f"{rate * 3600:.0f} an hour, about {left} left")


def front_table(run: Run) -> Table:
    """The Pareto set, fastest first, the untouched model beside it."""
    table = Table(title=f"Pareto set of {run.path}", title_justify="left")
    for name, justify in (("trial", "right"), ("recipe", "left"), ("validation", "right"),
                          ("points lost, 95 %", "right"), ("test", "right")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for profile in run.config.profiles:
        evidence = run.baseline.latency(profile).evidence
        table.add_column(f"ms {profile}\n({evidence})", justify="right")
        table.add_column("speed-up", justify="right")
    table.add_column("kB", justify="right")
    shown = run.front()
    for candidate in shown if run.baseline in shown else [*shown, run.baseline]:
        table.add_row(*_row(run, candidate), style=None if candidate.recipe.steps else "dim")
    return table


def picked_lines(chosen: Candidate) -> list[str]:
    """The choice in words, with what the user should know."""
    latency = chosen.latency(chosen.profile)
    lines = [f"[bold]picked trial {chosen.trial}[/]: {chosen.recipe.label}",
             f"  {latency.value:.4g} ms on {chosen.profile} ({latency.evidence}), "
             f"{1 / (latency.ratio or 1):.2f}x the speed of the untouched model; "
             f"{chosen.metrics['size_bytes'].value / 1e3:.0f} kB",
             f"  lost on validation: {_points(chosen.drop)}"]
    if chosen.test_drop:
        lines.append(f"  lost on test:       {_points(chosen.test_drop)}")
    return [*lines, *(f"  [yellow]note:[/] {note}" for note in chosen.notes)]


def verify_table(checks: list[Check]) -> Table:
    table = Table(title="every file of the front, scored again", title_justify="left")
    for name in ("trial", "sha256", "accuracy", "latency ratio", "result"):
        table.add_column(name)
    for c in checks:
        same = "" if c.accuracy is None else f"{c.accuracy:.4f} (was {c.reported_accuracy:.4f})"
        ratio = "" if c.ratio is None else f"{c.ratio:.3f} (was {c.reported_ratio:.3f})"
        table.add_row(str(c.trial), c.sha256[:12], same, ratio,
                      f"[red]{c.problem}[/]" if c.problem else "[green]holds[/]")
    return table


def status_lines(found: dict[str, Any]) -> list[str]:
    counts, driver = found["counts"], found["driver"]
    lines = [f"{found['run']}: " + (f"driver alive, pid {driver['pid']}" if driver["alive"]
                                    else "no driver; `pared resume` goes on"),
             f"  {counts['complete']} done, {counts['refused']} refused, {counts['failed']} failed, "
             f"{counts['running']} running of {found['target']}; {counts['trained']} trained; "
             f"front {found['front']}"]
    if found["trials_per_hour"]:
        eta = _clock(found["eta_s"]) if found["eta_s"] is not None else "-"
        lines.append(f"  {found['trials_per_hour']:.0f} trials an hour, about {eta} left")
    return lines + [f"  trial {r['trial']}: {r['doing']}, {r['age_s']:.0f} s, on {r['node']} "
                    f"(pid {r['pid']}), {r['recipe']}" for r in found["running"]]


def _row(run: Run, candidate: Candidate) -> list[str]:
    test = f"{candidate.test.value:.4f}" if candidate.test else "-"
    row = [str(candidate.trial), candidate.recipe.label, f"{candidate.metrics['accuracy'].value:.4f}",
           _interval(candidate.drop) if candidate.recipe.steps else "-", test]
    for profile in run.config.profiles:
        latency = candidate.latency(profile)
        row += [f"{latency.value:.4g}" + ("?" if latency.unstable else ""), _speed(latency)]
    return [*row, f"{candidate.metrics['size_bytes'].value / 1e3:.0f}"]


def _best(run: Run) -> str:
    try:
        found = run.pick()
    except Exception:  # nothing fits yet, or nothing is scored yet
        return "none yet"
    return f"{_speed(found.latency(run.config.profiles[0]))} at {found.drop.value * 100:+.1f} points lost"


def _speed(latency: Measurement) -> str:
    return f"{1 / latency.ratio:.2f}x" if latency.ratio else "-"


def _interval(drop: Drop) -> str:
    return f"{drop.value * 100:+.2f} ({drop.low * 100:+.2f}..{drop.high * 100:+.2f})"


def _points(drop: Drop) -> str:
    return f"{_interval(drop)} points, n = {drop.n}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(max(0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _throttled(every_s: float, show: Callable[[Driver], None]) -> Callable[[Driver], None]:
    last = time.time() - every_s + 1

    def watch(driver: Driver) -> None:
        nonlocal last
        if time.time() - last >= every_s:
            last = time.time()
            show(driver)

    return watch

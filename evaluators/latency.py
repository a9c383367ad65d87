"""Latency of a model file against the untouched one, interleaved, in a quiet lane.

Pairs are interleaved because frequency and caches drift; a run whose wall time exceeds the thread's
CPU time was preempted and its pair is dropped. Under preemption a ratio of plain medians is biased,
not only noisy, so what does not settle is marked unstable.

Others who share the machine's caches, its memory or, below a hypervisor, its cores slow two files
differently, for tenths of a second or for minutes, and that may look calm. They only ever add time (Chen
and Revels, Robust benchmarking in noisy environments, 2016, arXiv:1608.04295), so what counts is when the
reference ran as fast as it can: the blocks in which it was near the fastest of them, and the readings in
which it was near the best that is known of it.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import inf
from statistics import median, stdev
from time import perf_counter_ns, thread_time_ns

import numpy as np

from ..errors import MetricError
from ..hardware_profiles.profile import Runtime as RuntimeSettings
from ..spaces.subject import Array
from .lane import Lane
from .neighbours import Neighbours
from .runtimes import runtime

WARM_UP, BLOCKS = 20, 12
# Elsewhere the thread may sleep while the device works, which is no preemption.
ON_THREAD = ("CPUExecutionProvider", "CPU", "XNNPACK")
BURST_MS = 1.2  # both sides of a pair run about this long, so that neither finds the other's cache
PREEMPTED = 1.1  # wall over CPU time
CLEAN, SETTLED = 0.9, 0.02  # least share of clean pairs, largest spread of the ratio
CROWDED = 0.1  # of the machine in use by others
AT_BEST = 1.05  # of its fastest: a reference within that has the machine to itself
CALM = 4  # blocks of that kind that are enough
PAUSE_S = 1.0  # before another attempt: who disturbs may be gone
# Pairs of bursts in a block, attempt by attempt: during the search; for the final front.
QUICK, THOROUGH = (20, 40), (60,)
ATTEMPT_S, FEWEST = 30.0, 5  # what an attempt may take, by having fewer pairs in a block; no fewer than these

Once = Callable[[], None]
Block = list[tuple[float, float]]  # ms of the candidate and of the reference, pair by pair


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians over the blocks. `spread` is the coefficient of variation of the ratio."""

    latency_ms: float
    reference_ms: float
    ratio: float
    spread: float
    p95_ms: float
    clean: float
    pairs: int
    others: float = 0.0  # share of the machine that other processes used meanwhile
    slowed: float = 1.0  # the reference, against the best that is known of it
    provider_share: Mapping[str, float] = field(default_factory=dict)  # of the candidate's nodes

    @property
    def settled(self) -> bool:
        alone = self.others <= CROWDED and self.slowed <= AT_BEST
        return alone and self.clean >= CLEAN and self.spread <= SETTLED


def compare(
    candidate: bytes,
    reference: bytes,
    inputs: tuple[Array, ...],
    settings: RuntimeSettings,
    lane: Lane,
    attempts: tuple[int, ...] = QUICK,
    known_ms: float = inf,
) -> Timing:
    """Both files on the same inputs, each (batch, ...), alone on the machine.

    `known_ms`: the lowest latency that the reference ever had here. Repeated at greater length until it
    settles; the longest attempt is returned, `settled` or not. Raises MetricError when hardly anything ran
    undisturbed.
    """
    engine = runtime(settings.name)
    inputs = tuple(np.array(array[: settings.batch]) for array in inputs)
    for attempt, pairs in enumerate(attempts):
        time.sleep(PAUSE_S if attempt else 0.0)
        with lane.quiet(), _undisturbed(settings.threads):
            sessions = [engine.load(file, settings.threads) for file in (candidate, reference)]
            runs = [session.bound(inputs) for session in sessions]
            alone = settings.threads == 1 and settings.provider in ON_THREAD
            neighbours = Neighbours()
            timing = _timed(runs[0], runs[1], pairs, alone)
        if timing:
            timing = replace(timing, provider_share=sessions[0].provider_share, others=neighbours.share(),
                             slowed=max(1.0, timing.reference_ms / known_ms))
        if timing and timing.settled:
            return timing
    if timing is None:
        raise MetricError("the latency cannot be measured: the machine was never quiet enough")
    return timing


def _timed(candidate: Once, reference: Once, pairs: int, check_cpu: bool) -> Timing | None:
    """None when fewer than three blocks had enough undisturbed pairs."""
    sides = ((candidate, _burst(candidate)), (reference, _burst(reference)))
    pairs, blocks, walls = _affordable(pairs, sides), [], []
    for _ in range(BLOCKS):
        block = [p for i in range(pairs) if (p := _pair(*sides, i % 2 == 0, check_cpu))]
        walls += [mine for mine, _ in block]
        if len(block) >= pairs / 3:
            blocks.append(block)
    if len(blocks) < 3:
        return None
    blocks = _calm(blocks)
    ratios = [median(a / b for a, b in block) for block in blocks]
    return Timing(
        latency_ms=median(median(a for a, _ in block) for block in blocks),
        reference_ms=median(median(b for _, b in block) for block in blocks),
        ratio=median(ratios),
        spread=stdev(ratios) / median(ratios),
        p95_ms=float(np.percentile(walls, 95)),
        clean=len(walls) / (BLOCKS * pairs),
        pairs=len(walls),
    )


def _calm(blocks: list[Block]) -> list[Block]:
    """Those in which the reference ran as fast as it can; all of them where these are few."""
    references = [median(b for _, b in block) for block in blocks]
    fastest = min(references)
    calm = [block for block, b in zip(blocks, references, strict=True) if b <= AT_BEST * fastest]
    return calm if len(calm) >= CALM else blocks


def _affordable(pairs: int, sides: tuple[tuple[Once, int], tuple[Once, int]]) -> int:
    """As many as asked for, or as there is time for: one of a model of 200 ms takes 0.8 s."""
    began = perf_counter_ns()
    _pair(*sides, True, False)
    seconds = (perf_counter_ns() - began) / 1e9
    return min(pairs, max(FEWEST, int(ATTEMPT_S / BLOCKS / seconds)))


def _pair(
    candidate: tuple[Once, int], reference: tuple[Once, int], first: bool, check_cpu: bool
) -> tuple[float, float] | None:
    """One burst of each, the candidate `first` or last; None when either was preempted."""
    order = (candidate, reference) if first else (reference, candidate)
    one, other = (_wall_ms(run, count, check_cpu) for run, count in order)
    if one is None or other is None:
        return None
    return (one, other) if first else (other, one)


def _burst(run: Once) -> int:
    """Warms up; how many inferences take about `BURST_MS`."""
    for _ in range(WARM_UP):
        run()
    alone = min(_wall_ms(run, 1, False) or BURST_MS for _ in range(WARM_UP))
    return max(1, round(BURST_MS / alone))


def _wall_ms(run: Once, count: int, check_cpu: bool) -> float | None:
    """Milliseconds of one inference with a warm cache, None when the thread was preempted."""
    run()
    cpu, wall = thread_time_ns(), perf_counter_ns()
    for _ in range(count):
        run()
    wall, cpu = perf_counter_ns() - wall, thread_time_ns() - cpu
    if check_cpu and wall > PREEMPTED * cpu:
        return None
    return wall / count / 1e6


@contextmanager
def _undisturbed(threads: int) -> Iterator[None]:
    """On cores of its own, at the highest priority where the system allows it; else carries on."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    with suppress(OSError):
        if cores:
            os.sched_setaffinity(0, sorted(cores)[-threads:])
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    try:
        yield
    finally:
        with suppress(OSError):
            if cores:
                os.sched_setaffinity(0, cores)
            os.setpriority(os.PRIO_PROCESS, 0, 0)

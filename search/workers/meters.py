"""The run's figures among Ray's own metrics, which Prometheus reads from every node's metrics port."""

from collections.abc import Mapping

from ray.util import metrics

STATES = ("complete", "refused", "failed")


class Meters:
    """`pared_trials_total` by state, `pared_running`, `pared_workers` and the like; all by run."""

    def __init__(self, run: str) -> None:
        tags = {"run": run}
        self._ended = metrics.Counter("pared_trials_total", "Trials that ended", ("run", "state"))
        self._gauges = {name: metrics.Gauge(f"pared_{name}", text, ("run",)) for name, text in {
            "running": "Trials that are out", "workers": "Trials that can be out at a time",
            "silent_nodes": "Nodes that do not answer",
            "driver_busy_share": "Share of the driver's time not spent waiting, 0-1"}.items()}
        for meter in (self._ended, *self._gauges.values()):
            meter.set_default_tags(tags)
        self._told = dict.fromkeys(STATES, 0)

    def show(self, ended: Mapping[str, int], now: Mapping[str, float]) -> None:
        """`ended`: trials by state so far; `now`: the other figures."""
        for state in STATES:
            if more := ended.get(state, 0) - self._told[state]:
                self._ended.inc(more, {"state": state})
                self._told[state] += more
        for name, value in now.items():
            self._gauges[name].set(value)

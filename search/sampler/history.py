"""What a study has found so far, as arrays."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from .vectors import Levels, Params, Rows, Vectors

STDERR = "stderr"  # user attribute of a trial: {objective: standard error of its value}


@dataclass(frozen=True)
class History:
    """n trials that were told or are under way; `tried` holds the refused ones as well."""

    rows: Rows  # (n, d)
    losses: Rows  # (n, objectives), every one to be small; nan while under way
    noise: Rows  # (n, objectives) standard errors
    tried: Rows  # (t, d)

    @cached_property
    def told(self) -> NDArray[np.bool_]:
        return np.asarray(~np.isnan(self.losses).any(axis=1))

    @cached_property
    def order(self) -> Levels:
        """Indices of the told trials, those that the fewest others beat first."""
        told = np.flatnonzero(self.told)
        found: Levels = told[np.argsort(self._beaten, kind="stable")]
        return found

    @property
    def front(self) -> Levels:
        """Indices of the told trials that no other beats."""
        return np.asarray(np.flatnonzero(self.told)[self._beaten == 0], np.int64)

    def thinned(self, most: int) -> "History":
        """With at most `most` trials that were told: its front, and evenly of the others; all of `tried`."""
        told = np.flatnonzero(self.told)
        if len(told) <= most:
            return self
        on_front = unbeaten(self.losses[told])
        front, rest = told[on_front][:most], told[~on_front]
        even = rest[np.linspace(0, len(rest) - 1, most - len(front)).astype(np.int64)]
        kept = np.sort(np.concatenate([front, even, np.flatnonzero(~self.told)]))
        return History(self.rows[kept], self.losses[kept], self.noise[kept], self.tried)

    @cached_property
    def _beaten(self) -> Levels:
        return beaten(self.losses[self.told])

    def telling(self, most: int) -> Levels:
        """Ascending indices of at most `most` told trials: half the least beaten, half evenly others."""
        if len(self.order) <= most:
            return np.sort(self.order)
        best, rest = self.order[:most // 2], self.order[most // 2:]
        even = np.linspace(0, len(rest) - 1, most - most // 2).astype(np.int64)
        return np.sort(np.concatenate([best, rest[even]]))


def read(
    trials: Iterable[FrozenTrial], vectors: Vectors, objectives: Mapping[str, str],
    proposed: Mapping[int, Params], rows: dict[int, Rows],
) -> History:
    """A failed trial, and a pruned one that broke a constraint, count as the worst that was told.

    One that was pruned for another reason counts only as tried. `rows` keeps those of finished trials from
    call to call.
    """
    signs = np.array([-1.0 if direction == "maximize" else 1.0 for direction in objectives.values()])
    seen = [(trial, row) for trial in trials if (row := _row(trial, vectors, proposed, rows)) is not None]
    kept = [(trial, row) for trial, row in seen if trial.state != TrialState.PRUNED or _broken(trial)]
    losses = np.array([_losses(trial, signs) for trial, _ in kept]).reshape(len(kept), len(signs))
    told = losses[np.isfinite(losses).all(axis=1)]
    failed = np.array([trial.state in (TrialState.FAIL, TrialState.PRUNED) for trial, _ in kept], bool)
    losses[failed] = told.max(axis=0) if len(told) else np.nan
    useful = ~(failed & np.isnan(losses).any(axis=1))
    noise = np.array([_noise(trial, objectives) for trial, _ in kept]).reshape(losses.shape)
    useful_rows = vectors.stack([row for _, row in kept])[useful]
    return History(useful_rows, losses[useful], noise[useful], vectors.stack([row for _, row in seen]))


def _broken(trial: FrozenTrial) -> bool:
    return any(value > 0 for value in trial.constraints.values())


def _losses(trial: FrozenTrial, signs: Rows) -> Rows:
    """nan of a trial without values."""
    if trial.state != TrialState.COMPLETE:
        return np.full(len(signs), np.nan)
    found: Rows = signs * np.array(trial.values, float)
    return found


def _noise(trial: FrozenTrial, objectives: Mapping[str, str]) -> list[float]:
    errors = trial.user_attrs.get(STDERR, {})
    return [float(errors.get(name, 0.0)) for name in objectives]


def _row(
    trial: FrozenTrial, vectors: Vectors, proposed: Mapping[int, Params], rows: dict[int, Rows]
) -> Rows | None:
    """Also of a trial that has not asked for its parameters yet."""
    if trial.number in rows:
        return rows[trial.number]
    params = trial.params or trial.system_attrs.get("fixed_params") or proposed.get(trial.number, {})
    known = {name: value for name, value in params.items() if name in vectors.space}
    if not known:
        return None
    row = vectors.encode(known)
    if trial.state.is_finished():
        rows[trial.number] = row
    return row


def unbeaten(losses: Rows) -> NDArray[np.bool_]:
    """(n,) whether a point is on the front, one front at a time in memory."""
    found = np.zeros(len(losses), bool)
    front = np.zeros((0, losses.shape[1]))
    for i in np.lexsort(losses.T[::-1]):  # only those before can be better
        point = losses[i]
        if not ((front <= point).all(axis=1) & (front < point).any(axis=1)).any():
            found[i] = True
            front = np.vstack([front, point])
    return found


def beaten(losses: Rows) -> Levels:
    """(n,) how many points are better in one loss and worse in none; 0 on the front."""
    no_better, worse = np.ones((len(losses),) * 2, bool), np.zeros((len(losses),) * 2, bool)
    for loss in losses.T:
        no_better &= loss[:, None] >= loss
        worse |= loss[:, None] > loss
    found: Levels = (no_better & worse).sum(axis=1)
    return found

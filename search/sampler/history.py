"""What a study has found so far, as arrays."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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

    @property
    def told(self) -> NDArray[np.bool_]:
        return np.asarray(~np.isnan(self.losses).any(axis=1))

def read(
    trials: Iterable[FrozenTrial], vectors: Vectors, objectives: Mapping[str, str],
    proposed: Mapping[int, Params],
) -> History:
    """A failed trial counts as the worst that was told; one that was pruned only as tried."""
    signs = np.array([-1.0 if direction == "maximize" else 1.0 for direction in objectives.values()])
    seen = [(trial, row) for trial in trials if (row := _row(trial, vectors, proposed)) is not None]
    kept = [(trial, row) for trial, row in seen if trial.state != TrialState.PRUNED]
    losses = np.array([_losses(trial, signs) for trial, _ in kept]).reshape(len(kept), len(signs))
    told = losses[np.isfinite(losses).all(axis=1)]
    failed = np.array([trial.state == TrialState.FAIL for trial, _ in kept], bool)
    losses[failed] = told.max(axis=0) if len(told) else np.nan
    useful = ~(failed & np.isnan(losses).any(axis=1))
    noise = np.array([_noise(trial, objectives) for trial, _ in kept]).reshape(losses.shape)
    rows = vectors.stack([row for _, row in kept])
    return History(rows[useful], losses[useful], noise[useful], vectors.stack([row for _, row in seen]))


def _losses(trial: FrozenTrial, signs: Rows) -> Rows:
    """nan of a trial without values."""
    if trial.state != TrialState.COMPLETE:
        return np.full(len(signs), np.nan)
    found: Rows = signs * np.array(trial.values, float)
    return found


def _noise(trial: FrozenTrial, objectives: Mapping[str, str]) -> list[float]:
    errors = trial.user_attrs.get(STDERR, {})
    return [float(errors.get(name, 0.0)) for name in objectives]


def _row(trial: FrozenTrial, vectors: Vectors, proposed: Mapping[int, Params]) -> Rows | None:
    """Also of a trial that has not asked for its parameters yet."""
    params = trial.params or trial.system_attrs.get("fixed_params") or proposed.get(trial.number, {})
    known = {name: value for name, value in params.items() if name in vectors.space}
    return vectors.encode(known) if known else None


def beaten(losses: Rows) -> Levels:
    """(n,) how many points are better in one loss and worse in none; 0 on the front."""
    worse = (losses[:, None] >= losses[None]).all(2) & (losses[:, None] > losses[None]).any(2)
    found: Levels = worse.sum(axis=1)
    return found


def telling(losses: Rows, most: int) -> Levels:
    """Ascending indices of at most `most` points: half the least beaten, half evenly from the rest."""
    if len(losses) <= most:
        return np.arange(len(losses))
    order = np.argsort(beaten(losses), kind="stable")
    rest = order[most // 2:]
    even = rest[np.linspace(0, len(rest) - 1, most - most // 2).astype(np.int64)]
    return np.sort(np.concatenate([order[:most // 2], even]))

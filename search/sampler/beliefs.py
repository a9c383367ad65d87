"""What every objective of a candidate is believed to be: its cost, corrected, or a surrogate's guess."""

from dataclasses import dataclass, field

import numpy as np

from .features import SAME, Scale, Smooth
from .history import History
from .surrogate import Inputs, Settings, Surrogate, fit
from .vectors import Levels, Rows, Vectors

FITTED, USED = 120, 240  # readings that the settings of a surrogate, and its predictions, rest on
OFTEN = 1.1  # settings are looked for again after so many times more readings
WORST = 1.5  # losses beyond the median by so many times its distance to the best are cut: far from any front

# Mean (m,) and spread (m,) of candidates; losses (n,) of trials, with what is believed of the pending ones.
Belief = tuple[Rows, Rows, Rows]


@dataclass
class Beliefs:
    """One surrogate an objective; their settings are kept from proposal to proposal."""

    vectors: Vectors
    scale: Scale
    smooth: Smooth
    indicators: tuple[Rows, Rows]  # mean and spread of each column of `Vectors.embed`
    settings: dict[int, tuple[int, Settings]] = field(default_factory=dict)

    @staticmethod
    def over(vectors: Vectors, rows: Rows, costs: Rows) -> "Beliefs":
        """From a sample of candidates (m, d) and their costs (m, names)."""
        points, scale = vectors.embed(rows), Scale.of(costs)
        smooth = Smooth.of(points, scale.values(costs))
        return Beliefs(vectors, scale, smooth, (points.mean(0), points.std(0)))

    def inputs(self, rows: Rows, costs: Rows) -> Inputs:
        """Parameters and costs side by side, the costs as ranges of three spreads to either side."""
        points, features = self.vectors.embed(rows), self.scale.features(costs)
        mean, spread = self.indicators
        varied = np.where(spread > SAME, (points - mean) / np.maximum(spread, SAME), 0.0)
        own = self.vectors.owners[-1] + 1 + np.arange(features.shape[1])
        owners = np.concatenate([self.vectors.owners, own])
        return Inputs(np.hstack([points, features / 3]), owners, np.hstack([varied, features]))

    def unknown(self, i: int, history: History, losses: Rows, known: Inputs, at: Inputs) -> Belief:
        """Of loss i, of the candidates `at`; `losses` (n,) as told of those `known`.

        Of losses that are all positive, such as seconds and bytes, it is the logarithm.
        """
        told = history.told
        if (losses[told] > 0).all():
            losses = np.log(losses)
        best, median = losses[told].min(), np.median(losses[told])
        cut = np.minimum(losses, median + WORST * (median - best) + SAME)
        return self._guess(i, cut, history, known, at)

    def known(
        self, i: int, j: int, sign: float, history: History, tables: tuple[Rows, Rows],
        known: Inputs, at: Inputs,
    ) -> Belief:
        """The same of loss i, which is cost j; `tables`: the costs of those `known` and of those `at`."""
        tried, costs = (sign * self.scale.values(table)[:, j] for table in tables)
        losses = sign * self.scale.column(j, sign * history.losses[:, i])
        told = history.told
        if np.allclose(losses[told], tried[told], rtol=SAME, atol=SAME):
            return costs, np.zeros(len(costs)), np.where(told, losses, tried)
        own = len(self.vectors.owners)
        before, here = (sign * self.smooth(each.points[:, :own])[:, j] for each in (known, at))
        mean, spread, off = self._guess(i, losses - before, history, known, at)
        return mean + here, spread, off + before

    def _guess(self, i: int, y: Rows, history: History, known: Inputs, at: Inputs) -> Belief:
        """Pending trials count as what is believed of them (Ginsbourger et al., 2010, kriging believer)."""
        used, waiting = history.telling(USED), np.flatnonzero(~history.told)
        noise, told = history.noise[:, i], len(history.order)
        settings = self._settings(i, y, noise, history.telling(FITTED), told, known)
        guess = Surrogate(known[used], y[used], noise[used], settings)
        if not len(waiting):
            return *guess.predict(at), y
        believed = y.copy()
        believed[waiting] = guess.predict(known[waiting])[0]
        both = np.concatenate([used, waiting[-USED:]])
        return *Surrogate(known[both], believed[both], noise[both], settings).predict(at), believed

    def _settings(self, i: int, y: Rows, noise: Rows, few: Levels, told: int, known: Inputs) -> Settings:
        count, settings = self.settings.get(i, (0, None))
        if settings is None or told > OFTEN * count:
            settings = fit(known[few], y[few], noise[few], settings)
            self.settings[i] = (told, settings)
        return settings

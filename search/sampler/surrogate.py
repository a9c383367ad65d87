"""A Gaussian process over mixed parameters, whose uncertainty is held against what it got wrong.

The kernel has a linear part over parameters and features, and a part that falls with the weighted
squared distance of `Vectors.embed` (for categories: with the number that differ), one weight a column.
Its settings are the most probable ones (Rasmussen and Williams, Gaussian Processes for Machine Learning,
2006, chapter 5), its scale of uncertainty is that of the leave-one-out residuals (section 5.4.2 there).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from .vectors import Levels, Rows

FEW, STEPS, JITTER = 6, 25, 1e-6
# Logs of the variances of the linear part, of the local part and of the noise, and how far they may be off.
USUAL, SPREAD = np.log([0.5, 0.5, 0.02]), np.array([1.5, 1.0, 2.0])
NEAR, VARIED = 1.2, 1.0  # sum of the weights, and how far the log of one may be off


@dataclass(frozen=True)
class Inputs:
    """n candidates as a surrogate sees them."""

    points: Rows  # (n, p)
    owners: Levels  # (p,) the weight of each column of `points`, ascending from 0
    linear: Rows  # (n, q), each column of mean 0 and variance 1 or nought

    def __getitem__(self, which: Levels | NDArray[np.bool_]) -> "Inputs":
        return Inputs(self.points[which], self.owners, self.linear[which])

    def __len__(self) -> int:
        return len(self.points)

    @property
    def weights(self) -> int:
        return int(self.owners[-1]) + 1


@dataclass(frozen=True)
class Settings:
    """Logs of the kernel's three variances, and of its weights."""

    variances: Rows
    weights: Rows

    @staticmethod
    def usual(weights: int) -> "Settings":
        return Settings(USUAL.copy(), np.full(weights, np.log(NEAR / weights)))

    @property
    def vector(self) -> Rows:
        return np.concatenate([self.variances, self.weights])

    def kernel(self, a: Inputs, b: Inputs) -> Rows:
        """(n, m), without noise."""
        linear, local, _ = np.exp(self.variances)
        scale = np.exp(0.5 * self.weights)[a.owners]
        found: Rows = linear * _dot(a, b) + local * np.exp(-_squared(a.points * scale, b.points * scale))
        return found

    def own(self, a: Inputs) -> Rows:
        """(n,): the diagonal of the kernel."""
        linear, local, _ = np.exp(self.variances)
        found: Rows = linear * np.mean(a.linear**2, axis=1) + local
        return found


def _dot(a: Inputs, b: Inputs) -> Rows:
    product: Rows = a.linear @ b.linear.T / a.linear.shape[1]
    return product


def _scale(y: Rows) -> tuple[float, float]:
    """Mean and spread."""
    return float(np.mean(y)), float(np.std(y)) or 1.0


def _squared(a: Rows, b: Rows) -> Rows:
    found: Rows = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T, 0.0)
    return found


def fit(inputs: Inputs, y: Rows, noise: Rows, start: Settings | None = None) -> Settings:
    """The most probable settings for readings y (n,) with standard errors; the usual ones for a few."""
    usual = Settings.usual(inputs.weights)
    if len(y) < FEW:
        return usual
    center, spread = _scale(y)
    posterior = _Posterior(inputs, (y - center) / spread, noise / spread, usual.vector)
    first = usual.vector if start is None else start.vector
    far = 4 * posterior.spread
    best = minimize(posterior, first, jac=True, method="L-BFGS-B", options={"maxiter": STEPS},
                    bounds=list(zip(usual.vector - far, usual.vector + far, strict=True))).x
    return Settings(best[:3], best[3:])


class _Posterior:
    """Negative log posterior of the settings, with its slope."""

    def __init__(self, inputs: Inputs, y: Rows, noise: Rows, center: Rows) -> None:
        self.y, self.extra, self.center = y, noise**2 + JITTER, center
        self.spread = np.concatenate([SPREAD, np.full(inputs.weights, VARIED)])
        self.dot = _dot(inputs, inputs)
        columns = [inputs.points[:, inputs.owners == j] for j in range(inputs.weights)]
        self.gaps = np.array([_squared(part, part) for part in columns]).reshape(inputs.weights, -1)

    def __call__(self, settings: Rows) -> tuple[float, Rows]:
        linear, local, white = np.exp(settings[:3])
        weights = np.exp(settings[3:])
        decay = local * np.exp(-(weights @ self.gaps)).reshape(self.dot.shape)
        factor = cho_factor(linear * self.dot + decay + np.diag(white + self.extra), lower=True)
        inverse = cho_solve(factor, np.eye(len(self.y)))
        alpha = inverse @ self.y
        off = (settings - self.center) / self.spread
        value = 0.5 * self.y @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * off @ off
        inner = np.outer(alpha, alpha) - inverse
        local_slope = inner * decay
        slope = [-linear * np.sum(inner * self.dot), -local_slope.sum(), -white * np.trace(inner)]
        slopes = np.concatenate([slope, weights * (self.gaps @ local_slope.ravel())])
        return float(value), 0.5 * slopes + off / self.spread


@dataclass(frozen=True)
class Surrogate:
    """What is believed of a quantity after n readings `y` of it, each with a standard error."""

    inputs: Inputs
    y: Rows
    noise: Rows
    settings: Settings

    @cached_property
    def scale(self) -> tuple[float, float]:
        return _scale(self.y)

    @cached_property
    def _factor(self) -> Rows:
        covariance = self.settings.kernel(self.inputs, self.inputs)
        white = np.exp(self.settings.variances[2])
        covariance += np.diag(white + (self.noise / self.scale[1]) ** 2 + JITTER)
        factor: Rows = cholesky(covariance, lower=True)
        return factor

    @cached_property
    def _alpha(self) -> Rows:
        center, spread = self.scale
        alpha: Rows = cho_solve((self._factor, True), (self.y - center) / spread)
        return alpha

    @cached_property
    def doubt(self) -> float:
        """How many times larger the residuals of left-out readings are than expected; at least 1."""
        if len(self.y) < FEW:
            return 1.0
        inverse = cho_solve((self._factor, True), np.eye(len(self.y)))
        return float(max(1.0, np.sqrt(np.mean(self._alpha**2 / np.diag(inverse)))))

    def predict(self, at: Inputs) -> tuple[Rows, Rows]:
        """(m,) mean and standard deviation of the quantity itself, without the noise of a reading."""
        center, spread = self.scale
        cross = self.settings.kernel(self.inputs, at)
        explained = np.sum(solve_triangular(self._factor, cross, lower=True) ** 2, axis=0)
        variance = np.maximum(self.settings.own(at) - explained, 1e-10)
        return center + spread * (cross.T @ self._alpha), spread * self.doubt * np.sqrt(variance)

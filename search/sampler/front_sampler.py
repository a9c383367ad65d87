"""FrontSampler: evaluates only where the front can grow, as latency, size and memory are known beforehand."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from . import activity, gain, plan
from .activity import Active
from .beliefs import Beliefs
from .candidates import Candidates, Exhausted
from .costs import Cost, Costs
from .fidelity import Fidelity
from .history import History, read
from .identity import Identity, Same
from .vectors import Params, Rows, Vectors

START, TOLD = 8, 3  # trials spread over the range of costs, and told, before a surrogate is asked
WORK, LEAST = 240_000, 240  # candidates x trials that a proposal may compare, and candidates at least
MOST = 1000  # trials that a proposal is made from
BOLD, EVERY, LATE = 3.0, 3, 30  # one proposal in EVERY after LATE trials doubts its surrogate BOLD times more
GOLDEN = 0.6180339887  # its multiples spread evenly over the unit interval


class FrontSampler(optuna.samplers.BaseSampler):
    """A sampler for several objectives of which some are known before a trial is run.

    Proposals maximise the expected hypervolume gain over what was told, with the objectives that `cost`
    gives taken as known (and corrected where the study tells otherwise), the others from a Gaussian
    process. A candidate that breaks a budget, or was tried, is never proposed.

    space: every parameter that a trial may ask for; one trial may ask for a part of them.
    objectives: name -> "maximize" or "minimize", in the study's order.
    cost: a complete parameter set -> what is known of it: objectives by their name, budgeted quantities,
        and features (such as MACs) that help to guess the rest. `inf` is a candidate that is not allowed.
        Called thousands of times, once a candidate.
    budgets: upper limits on what `cost` gives.
    active: a parameter set -> the names that a trial with it asks for; learned from the trials if not given.
    switches: the parameters that `active` depends on; all of them if not given.
    same: a parameter set (without what it does not ask for) -> what it stands for; of several parameter sets
        that stand for the same, one is proposed.
    fidelity: a number among the parameters of which more is better and dearer, such as epochs. Proposals are
        made at the least of it and judged by what they are expected to be at the most; going on with the
        promising ones, by trials with more of it, is left to the caller.
    batch: proposals made from one look at the trials; more than one where many run at a time.
    seed: with the same seed and the same trials, the same proposals.

    Raises ValueError: an objective without a direction, a budget on what `cost` does not give; Exhausted when
    no candidate within the budgets is left.
    """

    def __init__(
        self,
        space: Mapping[str, BaseDistribution],
        objectives: Mapping[str, str],
        cost: Cost,
        budgets: Mapping[str, float] | None = None,
        seed: int | None = None,
        active: Active | None = None,
        switches: Collection[str] = (),
        same: Same | None = None,
        fidelity: str | None = None,
        batch: int = 1,
    ) -> None:
        wrong = {name: way for name, way in objectives.items() if way not in ("maximize", "minimize")}
        if wrong or not objectives or not space:
            raise ValueError(f"objectives need 'maximize' or 'minimize', and a space parameters; got {wrong}")
        self._space, self._objectives = dict(space), dict(objectives)
        self._vectors = Vectors(self._space)
        self._budgets = dict(budgets or {})
        self._fidelity = _fidelity(fidelity, self._vectors)
        self._costs = Costs(cost, self._vectors, self._budgets)
        self._active = activity.told(active, self._vectors, switches or self._space) if active else None
        self._identity = Identity(same, self._vectors)
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self._proposed: dict[int, Params] = {}
        self._rows: dict[int, Rows] = {}
        self._plan, self._batch = list[Rows](), batch
        self._candidates: Candidates | None = None
        self._beliefs: Beliefs | None = None

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Also of trials whose parameters were given to them."""
        self._leave_out(trial.system_attrs.get("fixed_params") or trial.params)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
        """A whole parameter set; nothing for a trial whose parameters were given to it."""
        if trial.system_attrs.get("fixed_params"):
            return {}
        if not self._plan:
            others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
            history = read(others, self._vectors, self._objectives, self._proposed, self._rows)
            self._plan = list(self._propose(history, trial.number))
            self._proposed = {n: params for n, params in self._proposed.items() if n not in self._rows}
        row = self._plan.pop(0)
        self._proposed[trial.number] = self._vectors.decode(row)
        return self._complete(row)

    def _leave_out(self, given: Params) -> None:
        """What others try meanwhile is not proposed as well."""
        if self._plan and given:
            known = {name: value for name, value in given.items() if name in self._space}
            keys = self._vectors.keys(self._vectors.stack([self._vectors.encode(known), *self._plan]))
            self._plan = [row for row, key in zip(self._plan, keys[1:], strict=True) if key != keys[0]]

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """For parameters outside the space: anything."""
        dice = optuna.samplers.RandomSampler(seed=(self._seed + trial.number) % 2**32)
        return dice.sample_independent(study, trial, param_name, param_distribution)

    def _complete(self, row: Rows) -> Params:
        """With a value for what is thought to be absent, should the trial ask for it all the same."""
        levels = np.maximum(self._vectors.levels(row), 0)
        return {**self._vectors.decode(self._vectors.rows(levels)), **self._vectors.decode(row)}

    def _propose(self, history: History, number: int) -> Rows:
        """(k, d): one, or several where there are many trials already."""
        dice, count = np.random.default_rng([self._seed, number]), plan.length(len(history.rows), self._batch)
        self._identity.note(history.tried)
        history = history.thinned(MOST)
        rows, costs = self._renewed(history).of(history, dice)
        if len(history.order) < TOLD or len(history.rows) < START:
            return self._begun(rows, costs, len(history.rows), count, dice)
        most = max(LEAST, WORK // len(history.rows))
        rows, costs = rows[:most], costs[:most]
        bold = BOLD if len(history.rows) > LATE and number % EVERY == 0 else 1.0
        anywhere = bool(self._budgets) and number % EVERY != 1
        gains = self._gains(history, rows, costs, bold, anywhere)
        points = self._vectors.embed(rows)
        return _some(rows[plan.apart(gains, points, count, lambda i: self._identity.takes(rows[i]))])

    def _renewed(self, history: History) -> Candidates:
        """Drawn anew when it turns out which parameters trials ask for."""
        asked = self._active or activity.learned(self._vectors.levels(history.tried))
        if self._candidates is None or asked != self._candidates.asked:
            self._candidates = Candidates(self._vectors, self._costs, asked, self._fidelity, self._seed)
            self._beliefs = Beliefs.over(self._vectors, *self._candidates.anywhere)
        return self._candidates

    def _begun(self, rows: Rows, costs: Rows, before: int, count: int, dice: np.random.Generator) -> Rows:
        """The first ones, each another, after `before` trials."""
        left, found = np.ones(len(rows), bool), list[int]()
        while len(found) < count and left.any():
            at = np.flatnonzero(left)
            chosen = int(at[self._spread(rows[at], costs[at], before + len(found), dice)])
            left[chosen] = False
            if self._identity.takes(rows[chosen]):
                found.append(chosen)
        return _some(rows[found])

    def _spread(self, rows: Rows, costs: Rows, count: int, dice: np.random.Generator) -> int:
        """From one of START equal parts of a known cost's range; often the one that computes most there."""
        assert self._beliefs is not None
        features = self._beliefs.scale.features(costs)
        if not self._costs.names:
            return int(dice.integers(len(rows)))
        known = [self._costs.column(name) for name in self._objectives if name in self._costs.names]
        spread = features[:, known[count % len(known)] if known else 0]
        low, high = spread.min(), spread.max()
        middle = low + (high - low) * (count * GOLDEN % 1.0)
        near = np.argsort(np.abs(spread - middle))[:max(1, len(rows) // START)]
        extra = [j for j, name in enumerate(self._costs.names)
                 if name not in self._objectives and name not in self._budgets]
        if extra and dice.random() < 0.5:
            return int(near[int(np.argmax(features[near][:, extra].sum(axis=1)))])
        return int(dice.choice(near))

    def _gains(self, history: History, rows: Rows, costs: Rows, bold: float, anywhere: bool) -> Rows:
        """Expected hypervolume gain of every candidate, within the budgets as far as that is known."""
        assert self._beliefs is not None
        beliefs, names = self._beliefs, list(self._objectives)
        told = self._costs.of(history.rows)
        begun = self._fidelity.is_begun(history.rows)  # these count as what they are expected to become
        ends, tables = np.vstack([rows, history.rows[begun]]), (told, np.vstack([costs, told[begun]]))
        known, at = beliefs.inputs(history.rows, told), beliefs.inputs(self._fidelity.ended(ends), tables[1])
        found, within = [], np.ones(len(ends))
        for i, name in enumerate(names):
            if name not in self._costs.names:
                found.append(beliefs.unknown(i, history, history.losses[:, i], known, at))
                continue
            j, sign = self._costs.column(name), -1.0 if self._objectives[name] == "maximize" else 1.0
            found.append(beliefs.known(i, j, sign, history, tables, known, at))
            if name in self._budgets and found[-1][1].any():
                limit = beliefs.scale.column(j, np.array([self._budgets[name]]))
                within *= gain.below(sign * limit, *found[-1][:2])
        mean, spread, losses = (np.stack(part, axis=1) for part in zip(*found, strict=True))
        axis = next((i for i, name in enumerate(names) if name not in self._costs.names), 0)
        losses[begun] = np.minimum(losses[begun], mean[len(rows):])
        mean, spread, within = mean[: len(rows)], spread[: len(rows)], within[: len(rows)]
        spread[:, axis] *= bold
        return within * gain.expected(losses, mean, spread, axis, anywhere)


def _some(rows: Rows) -> Rows:
    """Raises Exhausted where there are none."""
    if not len(rows):
        raise Exhausted("no candidate that is new was found within the budgets")
    return rows


def _fidelity(name: str | None, vectors: Vectors) -> Fidelity:
    if name is None:
        return Fidelity(None)
    if name not in vectors.names or vectors.categorical[vectors.names.index(name)]:
        raise ValueError(f"fidelity {name!r} is no number among the parameters {sorted(vectors.names)}")
    return Fidelity(vectors.names.index(name))

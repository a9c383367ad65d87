"""The run file (YAML) -> a frozen RunConfig: the one boundary for what users write."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ..errors import BudgetError, ConfigError, shown, unknown
from ..evaluators.folder import check_secretless
from ..hardware_profiles import plain
from ..hardware_profiles.load import is_path, load
from ..hardware_profiles.profile import HardwareProfile
from .budget import NUMBER, parse

Objective = Literal["accuracy", "latency", "size"]


def seconds(text: object) -> float | None:
    """`90`, `90s`, `10m`, `1.5h` -> seconds. Raises ValueError."""
    if text is None:
        return None
    match = re.fullmatch(rf"\s*({NUMBER})\s*(s|m|h|d)?\s*", str(text).lower())
    if not match or not 0 < float(match[1]) < 1e9:
        raise ValueError(f"a time is written 90s, 10m or 1.5h, got {shown(text)}")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2] or "s"]


def _budget(kind: str) -> AfterValidator:
    def check(text: str | float) -> str | float:
        try:
            parse(text, kind)
        except BudgetError as error:
            raise ValueError(str(error)) from error
        return text

    return AfterValidator(check)


def _absolute_size(text: str | float) -> str | float:
    if parse(text, "size").relative:
        raise ValueError("a size here is written 500MB or 10GB")
    return text


def _ascending(rungs: tuple[int, ...]) -> tuple[int, ...]:
    if len(rungs) == 1 or rungs != tuple(sorted(set(rungs))) or min(rungs, default=0) < 0:
        raise ValueError(f"rungs are two or more ascending numbers of epochs, such as [1, 3, 9], got {rungs}")
    return rungs


def _secretless(url: str) -> str:
    try:
        check_secretless(url)
    except ConfigError as error:
        raise PydanticCustomError("secret", "{told}", {"told": str(error)}) from None
    return url


def _database(url: str) -> str:
    if not re.fullmatch(r"sqlite:///.+|postgresql://.+", url):
        raise ValueError("a storage is written sqlite:///FILE or postgresql://USER@HOST/DATABASE, the "
                         "password in PGPASSWORD or ~/.pgpass")
    return url


Rungs = Annotated[tuple[int, ...], AfterValidator(_ascending)]
Duration = Annotated[float, BeforeValidator(seconds)]
Latency = Annotated[str | float, _budget("latency")]
Size = Annotated[str | float, _budget("size")]
Absolute = Annotated[str | float, _budget("size"), AfterValidator(_absolute_size)]
Url = Annotated[str, AfterValidator(_secretless)]
Database = Annotated[str, AfterValidator(_secretless), AfterValidator(_database)]
Memory = Annotated[str | float, _budget("memory")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProfileBudget(_Strict):
    """Limits on one device."""

    latency: Latency | None = Field(None, description="2ms, 50% of the untouched model, or 3x faster")
    memory: Memory | None = Field(
        None, description="RAM: activations, and weights that are not run from flash: 256kB, 50%, 2x")


class Budgets(BaseModel):
    """Limits that a candidate must meet; what breaks one is refused before it is trained.

    Written `{size: 100kB, host-cpu: {latency: 2ms}}`: every other key is the name of a profile.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, ProfileBudget]

    size: Size | None = Field(None, description="of the file: 100kB, 25% of the untouched model, 4x")

    @property
    def profiles(self) -> dict[str, ProfileBudget]:
        return self.__pydantic_extra__


class SearchSettings(_Strict):
    """How long, and how."""

    trials: int = Field(60, ge=1, description="candidates to score, refuse or fail")
    timeout: Duration | None = Field(None, description="no new candidate after this: 90s, 10m, 1.5h")
    trial_timeout: Duration = Field(1800.0, description="a candidate that runs longer is stopped")
    seed: int = Field(0, ge=0)
    sampler: Literal["tpe", "front"] = Field("tpe", description="who proposes: Optuna's TPE or FrontSampler")
    rungs: Rungs = Field(
        (), description="epochs, such as [1, 3, 9], at which recovery is judged: only the best go on")
    max_attempts: int = Field(3, ge=1, description="runs of one candidate whose worker or node dies")


class StageNeeds(_Strict):
    """What one task has to itself on its node."""

    cpus: int = Field(1, ge=1)
    gpus: float = Field(0.0, ge=0)
    memory: Absolute | None = Field(None, description="set aside on the node: 4GB")


class ClusterSettings(_Strict):
    """Where."""

    address: str = Field("local", description="local, auto, or HOST:PORT or ray://HOST:PORT of a Ray cluster")
    workers: int | None = Field(
        None, ge=1, description="candidates at a time; default: what the nodes hold, also those that join")
    train: StageNeeds = Field(StageNeeds(), description="what a candidate that is trained has to itself")
    score: StageNeeds = Field(StageNeeds(), description="what a candidate that is not trained has to itself")
    code: tuple[str, ...] = Field((), description="files and folders that the nodes of a cluster get; "
                                  "default: the model's own folder")
    store: Url | None = Field(None, description="where the files of this run live, and the copy that it is "
                              "resumed from elsewhere: s3://bucket/folder, gs://bucket/folder, a folder; "
                              "default: the run directory, without a copy")
    storage: Database | None = Field(
        None, description="a database for the study, in place of the journal: sqlite:///FILE or "
                          "postgresql://USER@HOST/DATABASE, the password in PGPASSWORD or ~/.pgpass")
    cache: Url | None = Field(None, description="where trainings are kept for later runs: a folder, a URL "
                              "(s3://bucket/folder), or run: for this run alone; default: ~/.cache/pared")
    cache_size: Absolute = Field("10GB", description="the cache is cut to this at the end of a run")


class RunConfig(_Strict):
    """A search: a model, the machines it is for, what they allow, and the space to look in."""

    model: str = Field(description="the subject, as module:object or ./file.py:object")
    profiles: tuple[str, ...] = Field(
        ("host-cpu",), min_length=1, description="names of `pared profiles`, or paths of .yaml files")
    budgets: Budgets = Budgets()
    max_accuracy_drop: float | None = Field(None, ge=0, le=1, description="0.01 is one point")
    accept_uncalibrated: bool = Field(
        False, description="allow a latency in ms as budget where latencies are predicted and uncalibrated")
    objectives: tuple[Objective, ...] = Field(("accuracy", "latency", "size"), min_length=1)
    space: dict[str, bool | dict[str, Any]] = Field(
        {}, description="technique: false, or its knobs narrowed to [low, high] or a list of options")
    keep: tuple[str, ...] = Field(
        (), description="layers that no technique changes: a path, a pattern such as blocks.0.*, or a type")
    students: dict[str, str] = Field(
        {}, description="other architectures to try, taught by the model: name: ./file.py:function or "
                        "module:function, a function without arguments that returns a torch.nn.Module")
    search: SearchSettings = SearchSettings()
    cluster: ClusterSettings = ClusterSettings()

    @cached_property
    def machines(self) -> tuple[HardwareProfile, ...]:
        """The profiles, loaded."""
        return tuple(load(name) for name in self.profiles)

    @property
    def names(self) -> tuple[str, ...]:
        """The profiles' own names, which metrics and budgets go by."""
        return tuple(machine.name for machine in self.machines)

    @property
    def searched(self) -> tuple[HardwareProfile, ...]:
        """Those that have a figure for any file; a table of measurements joins a run after its search."""
        return tuple(machine for machine in self.machines if machine.backend.kind != "table")

    def machine(self, name: str) -> HardwareProfile:
        return self.machines[self.names.index(name)]

    @model_validator(mode="after")
    def _budgets_can_be_judged(self) -> Self:
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"profiles: each needs a name of its own, got {', '.join(self.names)}")
        for name, budget in self.budgets.profiles.items():
            if name not in self.names:
                raise ValueError("budgets: " + unknown("profile", name, self.names))
            if budget.latency is not None and not self.accept_uncalibrated:
                check_trusted(self.machine(name), budget.latency)
        return self


def check_trusted(machine: HardwareProfile, latency: str | float) -> None:
    """An absolute latency is no budget for a prediction that nothing was measured for.

    Raises ConfigError. Predictions of an uncalibrated profile rank well and are off by up to 3x.
    """
    if machine.calibrated or parse(latency, "latency").relative:
        return
    raise ConfigError(
        f"latency budget {latency!r} on {machine.name}: its latencies are predicted and uncalibrated, good "
        f"for ranking only. Measure it (`pared profile-device {machine.name}`), write the budget relative "
        "to the untouched model (50% or 3x), or say --accept-uncalibrated (accept_uncalibrated: true)")


def read(
    path: Path, overrides: Mapping[str, object] | None = None, profiles: Sequence[str] | None = None
) -> RunConfig:
    """The checked run file, `overrides` (`{"search.trials": 40}`) laid over it.

    `profiles`, paths among them relative to here, take the place of its own; budgets of others are left out.

    Raises ConfigError naming the key, what was got and what is allowed.
    """
    try:
        fields = plain.read(path)
    except ValueError as error:
        raise ConfigError(f"run file {path}: {error}; expected keys such as model and budgets") from error
    if profiles:
        named = [str(_absolute(name, Path.cwd())) for name in profiles]
        names = [load(name).name for name in named]
        fields["profiles"] = named
        if isinstance(budgets := fields.get("budgets"), dict):
            fields["budgets"] = {name: budget for name, budget in budgets.items() if name in ("size", *names)}
    return build(fields, overrides or {}, str(path), path.parent)


def build(
    fields: dict[str, Any], overrides: Mapping[str, object], where: str, base: Path | None = None
) -> RunConfig:
    """The checked config of plain values; profile files are relative to `base`. Raises ConfigError."""
    for dotted, value in overrides.items():
        if value is not None:
            _set(fields, dotted, value)
    if isinstance(named := fields.get("profiles"), list):
        fields["profiles"] = [_absolute(name, base or Path.cwd()) for name in named]
    try:
        return RunConfig.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"{where}:\n" + "\n".join(f"  {_told(e)}" for e in error.errors())) from error


def override(text: str) -> tuple[str, object]:
    """`search.seed=3` -> ("search.seed", 3). Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[\w.@-]+", key):
        raise ConfigError(f"--set {text!r}: write a.b=value, for example search.seed=3")
    try:
        return key, plain.plain(value)
    except ValueError as error:
        raise ConfigError(f"--set {text!r}: the value is not YAML: {error}") from error


def dump(config: RunConfig) -> str:
    """The resolved run file."""
    return yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False)


def schema() -> str:
    """The JSON schema of a run file, for editors; shipped as `run.schema.json`."""
    return json.dumps(RunConfig.model_json_schema(), indent=1) + "\n"


def _absolute(name: object, base: Path) -> object:
    named = isinstance(name, str) and "\0" not in name and is_path(name)
    return str((base / str(name)).resolve()) if named else name


def _set(fields: dict[str, Any], dotted: str, value: object) -> None:
    *folders, last = dotted.split(".")
    for name in folders:
        fields = fields.setdefault(name, {})
        if not isinstance(fields, dict):
            raise ConfigError(f"--set {dotted}: {name} is not a group of keys")
    fields[last] = value


def _told(error: Any) -> str:
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{'.'.join(map(str, error['loc'][:-1])) or 'run file'}: " + unknown(
            "key", error["loc"][-1], _keys(error["loc"][:-1]))
    hidden = isinstance(error.get("input"), dict) or error["type"] == "secret"
    got = "" if hidden else f" (got {shown(error.get('input'))})"
    return f"{where or 'run file'}: {error['msg'].removeprefix('Value error, ')}{got}"


def _keys(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed in the group at this place of the run file."""
    groups: dict[tuple[int | str, ...], type[BaseModel]] = {
        (): RunConfig, ("search",): SearchSettings, ("cluster",): ClusterSettings,
        ("cluster", "train"): StageNeeds, ("cluster", "score"): StageNeeds}
    return list(groups.get(loc, ProfileBudget).model_fields)

"""The command line: parse, call, print, exit code. Loads torch and ray only in commands that work."""

import json
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from signal import SIGINT, SIGTERM, signal
from typing import Annotated, Any

import typer

from ..errors import ParedError, UserError

app = typer.Typer(
    name="pared", no_args_is_help=True, add_completion=False, rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Joint pruning, distillation and quantization search that scores the file you ship.",
)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A run directory.", show_default=False)]
Anywhere = Annotated[str, typer.Argument(
    metavar="DIR|URL", help="A run directory, or where its copy is: s3://bucket/folder.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="JSON alone on stdout.")]
Accept = Annotated[bool, typer.Option(
    "--accept-uncalibrated", help="Allow a budget in ms on predicted, uncalibrated latencies.")]
Trials = Annotated[int | None, typer.Option(help="Candidates to score, refuse or fail.", min=1)]
Timeout = Annotated[str | None, typer.Option(help="No new candidate after this: 90s, 10m, 1.5h.")]
Workers = Annotated[int | None, typer.Option(help="Candidates at a time.", min=1)]
Address = Annotated[str | None, typer.Option(help="local, auto, or HOST:PORT of a Ray cluster.")]


_signals: list[int] = []  # that told this process to go


def _stop(number: int, _: object) -> None:
    """As SIGINT does: the only exception that Ray lets through when it comes while it waits."""
    _signals.append(number)
    raise KeyboardInterrupt


def main() -> None:
    """The `pared` command. Wrong input: exit code 2 and one message, no traceback.

    0: done; 1: a check failed or pared itself did; 2: wrong input, or nothing meets the budgets; 130, 143:
    stopped by SIGINT or SIGTERM, and to be resumed.
    """
    for number in (SIGINT, SIGTERM):
        signal(number, _stop)
    try:
        app()
    except SystemExit:
        if not _signals:
            raise
        _fail("stopped; `pared resume DIR` goes on from here", 128 + _signals[0])
    except UserError as error:
        _fail(str(error), 2)
    except ParedError as error:
        _fail(str(error), 1)


@app.command()
def init(folder: Annotated[Path, typer.Argument(metavar="DIR")]) -> None:
    """Write a run file and a subject to start from."""
    for path in _room("starter").write(folder):
        print(path)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("pared-demo"),
    trials: Annotated[int, typer.Option(min=1)] = 40,
    json_: Json = False,
) -> None:
    """Compress a trained ResNet on Fashion-MNIST, within minutes on two cores."""
    config, base = _room("starter").demo(trials)
    if (out / "run.yaml").exists():
        _finish(_searched(lambda watch: _room("api").resume(out, watch=watch, trials=trials), out), json_)
    else:
        _finish(_start(config, out, base), json_)


@app.command()
def search(
    run_file: Annotated[Path | None, typer.Argument(metavar="[RUN.yaml]", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory.  [default: runs/NAME]")] = None,
    from_: Annotated[Path | None, typer.Option(
        "--from", metavar="DIR",
        help="A run of the same model: score all it knows, train only what is new.")] = None,
    profile: Annotated[list[str] | None, typer.Option(
        help="In place of the profiles of the run file; may be given several times.")] = None,
    trials: Trials = None,
    timeout: Timeout = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    address: Address = None,
    workers: Workers = None,
    accept_uncalibrated: Accept = False,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c",
                                                   help="Any key of the run file.")] = None,
    json_: Json = False,
) -> None:
    """Search the space of a run file, or of an earlier run for other devices, and print the front."""
    run_file = run_file or (from_ / "run.yaml" if from_ else None)
    if run_file is None:
        raise UserError("search: name a run file, or a run to start from with --from DIR")
    config = _room("config")
    changed = {"search.trials": trials, "search.timeout": timeout, "search.seed": seed,
               "cluster.address": address, "cluster.workers": workers,
               "accept_uncalibrated": accept_uncalibrated or None}
    changed |= dict(config.override(text) for text in set_ or [])
    read = config.read(run_file, changed, profile)
    named = Path("runs") / (f"{from_.name}-{'-'.join(read.names)}" if from_ else run_file.stem)
    _finish(_start(read, out or named, run_file.parent, from_), json_)


@app.command()
def resume(
    folder: Folder, trials: Trials = None, timeout: Timeout = None, address: Address = None,
    workers: Workers = None, json_: Json = False,
) -> None:
    """Go on with a run that was stopped or killed, or give it more trials."""
    _finish(_searched(lambda watch: _room("api").resume(
        folder, watch=watch, trials=trials, timeout=timeout, address=address, workers=workers),
        folder), json_)


@app.command()
def fetch(
    url: Annotated[str, typer.Argument(metavar="URL", help="cluster.store of a run.", show_default=False)],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The run directory to make.",
                                           show_default=False)],
) -> None:
    """Bring a run here from its store: `pared resume DIR` then goes on with it on this machine."""
    run = _room("api").fetch(url, folder)
    print(f"{run.path}: {run.counts().asked} trials; `pared resume {run.path}` goes on with it")


@app.command()
def status(place: Anywhere, json_: Json = False) -> None:
    """How a run is doing, while it runs or after it was killed."""
    found = _room("status").status(place)
    _out(found, json_, lambda: "\n".join(_room("console").status_lines(found)))


@app.command()
def front(place: Anywhere, json_: Json = False) -> None:
    """The Pareto set within the budgets."""
    run = _run(place)
    if json_:
        print(json.dumps(_front(run), indent=1))
    else:
        _show_fronts(run)


@app.command()
def pick(
    place: Anywhere,
    profile: Annotated[str | None, typer.Option(
        help="Device to be fast on.  [default: all of the run, one model]")] = None,
    latency: Annotated[str | None, typer.Option(help="2ms, 50% or 3x.")] = None,
    size: Annotated[str | None, typer.Option(help="100kB, 25% or 4x.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="0.01 is one point.")] = None,
    trial: Annotated[int | None, typer.Option(help="This very candidate.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Copy model and card here.")] = None,
    accept_uncalibrated: Accept = False,
    json_: Json = False,
) -> None:
    """The fastest model within the budgets; -o copies it."""
    run = _run(place)
    chosen = run.pick(profile, latency, size, max_drop, trial, accept_uncalibrated)
    exported = chosen.export(out) if out else None
    point = {**chosen.to_json(), "profile": chosen.profile, "notes": list(chosen.notes),
             "exported": str(exported) if exported else None}
    _out(point, json_, lambda: "\n".join(_room("console").picked_lines(chosen, exported)))


@app.command()
def verify(place: Anywhere, json_: Json = False) -> None:
    """Score every file of the front again; exit code 1 if a figure does not hold."""
    checks = _run(place).verify()
    _out({"run": place, "checks": [asdict(check) for check in checks],
          "ok": not any(check.problem for check in checks)}, json_,
         lambda: _room("console").verify_table(checks))
    raise typer.Exit(1 if any(check.problem for check in checks) else 0)


@app.command()
def report(
    place: Anywhere,
    out: Annotated[Path | None, typer.Option(
        "-o", "--out", help="[default: report.html in DIR, of a URL in the working directory]")] = None,
) -> None:
    """Write one self-contained HTML page about a run."""
    print(_run(place).report(out))


@app.command()
def profiles(
    name: Annotated[str | None, typer.Argument(show_default=False)] = None, json_: Json = False
) -> None:
    """The known hardware profiles, or one in full."""
    load = import_module("pared.hardware_profiles.load")
    if name:
        found = load.load(name).model_dump(mode="json", exclude_none=True)
        _out(found, json_, lambda: json.dumps(found, indent=2))
    else:
        rows = [load.load(known) for known in load.known()]
        _out([{"name": p.name, "title": p.title, "kind": p.kind, "evidence": p.evidence,
               "calibrated": p.calibrated} for p in rows],
             json_, lambda: _room("console").profiles_table(rows))


@app.command()
def techniques(
    run_file: Annotated[Path | None, typer.Argument(metavar="[RUN.yaml]", show_default=False)] = None,
    profile: Annotated[list[str] | None, typer.Option(
        help="What a technique is good for there; may be given several times.  [default: all]")] = None,
    json_: Json = False,
) -> None:
    """What can be done to a model: knobs, papers, and which devices turn it into speed."""
    if run_file and profile:
        raise UserError("techniques: name a run file or profiles, not both")
    load = import_module("pared.hardware_profiles.load")
    machines = (_room("config").read(run_file).machines if run_file
                else [load.load(name) for name in profile or load.known()])
    rows = _room("techniques").techniques(machines)
    _out(rows, json_, lambda: _room("console").techniques_table(rows))


@app.command()
def sensitivity(
    target: Annotated[Path, typer.Argument(metavar="RUN.yaml|DIR", show_default=False)],
    json_: Json = False,
) -> None:
    """How much each layer minds fewer bits and fewer channels; measured once, then remembered."""
    if not target.exists():
        raise UserError(f"there is no run file and no run directory {target}")
    with _room("console").timed(_stderr(), "measuring how much each layer minds") as watch:
        found = _room("sensing").of(target, watch)
    if json_:
        _out(found.to_json(), True, str)
    else:
        for table in _room("console").sensitivity_tables(found):
            _stdout().print(table, highlight=False)


@app.command("import")
def import_(
    folder: Folder,
    results: Annotated[Path, typer.Argument(metavar="RESULTS.csv", show_default=False)],
    profile: Annotated[str, typer.Option(help="What was measured.", show_default=False)],
    json_: Json = False,
) -> None:
    """Add latencies measured elsewhere (sha256, latency_ms[, energy_uj, ram_kb]) to a run."""
    run = _room("measurements").add(folder, results, profile)
    _out(_front(run), json_, lambda: _room("console").front_tables(run)[-1])


@app.command("profile-device")
def profile_device(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", show_default=False)],
    model: Annotated[str | None, typer.Option(help="module:object or ./file.py:object: calibrate on "
                                                   "variants of your own model.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="[default: NAME-calibrated.yaml]")] = None,
    export: Annotated[Path | None, typer.Option(
        help="Only write the files to measure here, for a device without a runner.")] = None,
    results: Annotated[Path | None, typer.Option(
        help="Measurements of those files: sha256, latency_ms.")] = None,
    json_: Json = False,
) -> None:
    """Measure a device, fit its profile, and say how far predictions are off."""
    made = _room("calibration").profile_device(profile, model, out, export, results, _stderr())
    _out(made.plain, json_, lambda: _room("calibration").table(made))


cache_app = typer.Typer(no_args_is_help=True, help="What runs keep for later runs: trainings above all.")
app.add_typer(cache_app, name="cache")
Place = Annotated[str | None, typer.Option(
    "--cache", metavar="URL", help="[default: ~/.cache/pared]", show_default=False)]


@cache_app.command("show")
def cache_show(cache: Place = None, json_: Json = False) -> None:
    """Where it is, and how much is in it."""
    found = _room("cache").summary(cache)
    _out(found, json_, lambda: "{entries} entries, {megabytes:.1f} MB, in {url}".format(**found))


@cache_app.command("gc")
def cache_gc(
    size: Annotated[str, typer.Option(help="Keep so much, the last used.")] = "10GB",
    cache: Place = None, json_: Json = False,
) -> None:
    """Drop what was unused longest until the rest fits."""
    found = _room("cache").cut(cache, size)
    _out(found, json_, lambda: "dropped {dropped} entries, {megabytes:.1f} MB, from {url}".format(**found))


@app.command()
def doctor(json_: Json = False) -> None:
    """What is installed, what this machine can measure, and what is missing."""
    found = _room("doctor").examine()
    _out(found, json_, lambda: _room("doctor").table(found))
    raise typer.Exit(0 if found["ok"] else 1)


def _room(name: str) -> Any:
    """A module of this folder, loaded when a command needs it: `--help` must not wait for torch."""
    return import_module(f"{__package__}.{name}")


def _run(place: str | Path) -> Any:
    return _room("mirror").at(place)


def _start(config: Any, out: Path, base: Path, origin: Path | None = None) -> Any:
    # The subject is found first: a wrong one is told before a cluster starts.
    subject = import_module("pared.evaluators.subjects.find").find(config.model, base)
    return _searched(lambda watch: _room("api").start(config, subject, out, base, watch, origin=origin), out)


def _searched(work: Any, out: Path) -> Any:
    with _room("console").progress(_stderr(), out) as watch:
        return work(watch)


def _finish(run: Any, json_: bool) -> None:
    """Front, pick and report of a run whose search is over."""
    page = run.report()
    console = _room("console")
    try:
        chosen, miss = run.pick(), None
    except UserError as error:
        chosen, miss = None, error
    if json_:
        _out(_front(run), True, str)
    else:
        _show_fronts(run)
        for part in console.picked_lines(chosen) if chosen else ():
            _stdout().print(part)
        _stdout().print(f"report: {page}\nnext:   pared pick {run.path} --max-drop 0.01 -o shipped",
                        highlight=False, soft_wrap=True)
    print(_last_line(run, chosen), file=sys.stderr)
    if miss:
        raise miss


def _last_line(run: Any, chosen: Any) -> str:
    """For schedulers and logs: one line of `name=value`."""
    counts = run.counts()
    return (f"pared: finished complete={counts.complete} refused={counts.refused} failed={counts.failed} "
            f"front={len(run.front())} picked={chosen.trial if chosen else '-'} run={run.path}")


def _show_fronts(run: Any) -> None:
    console = _room("console")
    for part in (*console.front_tables(run), console.best_line(run)):
        if part:
            _stdout().print(part, highlight=False)


def _front(run: Any) -> dict[str, Any]:
    """`fronts` and `best_for_all` are there where the run has several profiles."""
    names, best = run.config.names, run.best_for_all()
    several = {"fronts": {name: [c.trial for c in run.front(name)] for name in names},
               "best_for_all": best.trial if best else None}
    return {"run": run.place, "baseline": run.baseline.to_json(),
            "points": [candidate.to_json() for candidate in run.front()],
            "counts": asdict(run.counts()), **(several if len(names) > 1 else {})}


def _out(plain: Any, as_json: bool, pretty: Any) -> None:
    if as_json:
        print(json.dumps(plain, indent=1))
    else:
        shown = pretty()
        _stdout().print(shown, highlight=False, soft_wrap=not hasattr(shown, "columns"))


def _stdout() -> Any:
    return _console(sys.stdout)


def _stderr() -> Any:
    return _console(sys.stderr)


def _console(stream: Any) -> Any:
    """On a terminal as wide as it is; in a file wide enough that a row stays a row."""
    return import_module("rich.console").Console(
        file=stream, width=None if stream.isatty() else 180)


def _fail(message: str, code: int) -> None:
    print(f"pared: {message}", file=sys.stderr)
    raise SystemExit(code)

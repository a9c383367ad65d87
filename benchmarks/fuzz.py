"""Damaged input by the ten thousand: what of it ends in a traceback, a hang or a file where none belongs?

`python benchmarks/fuzz.py KIND ENGINE CASES`: kinds as in `tests/fuzz/targets.py`, engines are hypothesis and
atheris (coverage-guided, `pip install 'pared[fuzz]'`). Appends a row to `results/fuzz.json`; inputs that went
wrong are kept in the folder that it names.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from common import RESULTS, ROOT, write

FUZZ = ROOT / "tests" / "fuzz"
sys.path.insert(0, str(FUZZ))
ENGINES = ("hypothesis", "atheris")
INSTRUMENTED = ["pared", "optuna.storages"]
LARGEST = 1 << 17  # bytes of one input


def main(kind: str, engine: str, cases: int) -> None:
    """In a process of its own: atheris ends the one that it runs in, and a native crash would."""
    kept = Path(tempfile.mkdtemp(prefix=f"fuzz-{kind}-{engine}-"))
    began = time.monotonic()
    with (kept / "log").open("w") as log:
        done = subprocess.run([sys.executable, __file__, kind, engine, str(cases), str(kept)], stdout=log, stderr=log)
    row = {"kind": kind, "engine": engine, "cases": 0, "tracebacks": 0, "hangs": 0, "writes_outside": 0,
           "crashes": 0, "seconds": round(time.monotonic() - began, 1)}
    result = kept / "result.json"
    row |= json.loads(result.read_text()) if result.exists() else {"crashes": 1, "code": done.returncode}
    print(f"{row} (kept in {kept})")
    file = RESULTS / "fuzz.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    write("fuzz", {"rows": [*rows, row]})


def child(kind: str, engine: str, cases: int, kept: Path) -> None:
    (with_hypothesis if engine == "hypothesis" else with_atheris)(kind, cases, kept)


def with_hypothesis(kind: str, cases: int, kept: Path) -> None:
    from harness import Tally
    from hypothesis import HealthCheck, Phase, given, settings
    from place import Place
    from strategies import damaged

    tally = Tally(kind, Place(_folder(kept)))

    @settings(max_examples=cases, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @given(damaged(kind))
    def case(data: bytes) -> None:
        (kept / "last").write_bytes(data)
        tally.case(data)

    case()
    _tell(tally, kept)


def with_atheris(kind: str, cases: int, kept: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from harness import Tally
        from mutations import damaged, mutated
        from place import Place
        from valid import EXAMPLES

    tally = Tally(kind, Place(_folder(kept)))
    corpus = kept / "corpus"
    corpus.mkdir()
    for i, example in enumerate(EXAMPLES[kind]):
        (corpus / str(i)).write_bytes(example)

    def case(data: bytes) -> None:
        (kept / "last").write_bytes(data)
        tally.case(data)
        if tally.cases >= cases:
            _tell(tally, kept)
            raise SystemExit(0)

    def mutator(data: bytes, largest: int, seed: int) -> bytes:
        """A valid example damaged, an earlier input damaged further, or bytes as libFuzzer changes them."""
        random = Random(seed)
        way = random.random()
        if way < 0.5:
            return mutated(kind, random.choice)[:largest]
        return damaged(kind, data, random.choice)[:largest] if way < 0.8 else atheris.Mutate(data, largest)

    flags = ["-seed=1", f"-max_len={LARGEST}", "-timeout=0", "-rss_limit_mb=0", f"-artifact_prefix={kept}/",
             "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], case, custom_mutator=mutator)
    atheris.Fuzz()


def _folder(kept: Path) -> Path:
    (kept / "place").mkdir()
    return kept / "place"


def _tell(tally: Any, kept: Path) -> None:
    for i, (what, data) in enumerate(tally.found.items()):
        (kept / f"found-{i}").write_bytes(data)
        (kept / f"found-{i}.txt").write_text(f"{tally.times[what]} times: {what}\n")
    names = ("cases", "refused", "tracebacks", "hangs", "writes_outside", "slowest_s")
    (kept / "result.json").write_text(json.dumps({name: getattr(tally, name) for name in names}))


if __name__ == "__main__":
    kind_, engine_, cases_, *rest = sys.argv[1:]
    if rest:
        child(kind_, engine_, int(cases_), Path(rest[0]))
    else:
        main(kind_, engine_, int(cases_))

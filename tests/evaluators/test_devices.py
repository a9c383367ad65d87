"""Devices that run a declared command, with real scripts in real processes; over adb with a stand-in."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pydantic import ValidationError

from pared.errors import ConfigError, MetricError, UserError
from pared.evaluators.devices import Reading, _base, command, device, host
from pared.evaluators.devices.answer import parse
from pared.evaluators.devices.results import check_reference, read_csv
from pared.evaluators.latency import Timing
from pared.hardware_profiles.backend import Command, Node
from pared.hardware_profiles.load import load
from pared.hardware_profiles.profile import Calibration, HardwareProfile

FILE, REFERENCE = b"the file", b"the reference"
QUICK = (20, 40)


def profile(tmp: Path, *command: str, **fields: Any) -> HardwareProfile:
    told = {"command": command} if command else {"command": (sys.executable, *Command(transport="local").command[1:])}
    backend = Command(**{"transport": "local", "folder": f"{tmp}/device", **told, **fields})
    return load("host-cpu").model_copy(update={"backend": backend})


def script(folder: Path, body: str) -> tuple[str, ...]:
    """A command that runs `body` with `path`, the folder `here`, and `say(**what)` for the answer."""
    head = "import hashlib, json, pathlib, sys, time\npath = pathlib.Path(sys.argv[1])\n" \
           "here = pathlib.Path(__file__).parent\n" \
           "def say(**what): print(json.dumps(what))\n"
    (folder / "fake.py").write_text(head + textwrap.dedent(body))
    return sys.executable, str(folder / "fake.py"), "{file}"


def read(told: HardwareProfile, file: bytes = FILE) -> Reading:
    return device(told).read(file, REFERENCE, (), QUICK)


def net(width: int) -> bytes:
    """Three convolutions with an open batch."""
    rng, helper = np.random.default_rng(0), onnx.helper
    weight = onnx.numpy_helper.from_array(rng.normal(size=(width, width, 3, 3)).astype(np.float32), "w")
    nodes = [helper.make_node("Conv", [a, "w"], [b], pads=[1, 1, 1, 1]) for a, b in ("xa", "ab", "by")]
    ends = [helper.make_tensor_value_info(name, 1, ["batch", width, 16, 16]) for name in "xy"]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def test_a_real_file_is_measured_by_the_script_that_comes_with_pared(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(_base, "MOVED", 0.6)  # other tests may run beside this one
    told = profile(tmp_path)
    device(told).check()
    small, big = net(8), net(32)
    reading = device(told).read(small, big, (), QUICK)
    assert reading.ratio is not None and 0 < reading.ratio < 0.6
    assert reading.low_ms <= reading.latency_ms <= reading.high_ms and reading.pairs >= 200
    assert any(note.startswith("runtime: onnxruntime 1.") for note in reading.notes)
    copied = {path.name for path in (tmp_path / "device").iterdir()}
    assert {f"{hashlib.sha256(file).hexdigest()}.onnx" for file in (small, big)} < copied
    assert not [name for name in copied if name.endswith(".part")]


def test_a_file_that_is_there_is_not_copied_again(tmp_path: Path) -> None:
    told = profile(tmp_path, *script(tmp_path, "say(latency_ms=1.0)"))
    read(told)
    path = tmp_path / "device" / f"{hashlib.sha256(FILE).hexdigest()}.onnx"
    stamp = path.stat().st_mtime_ns
    read(told)
    assert path.stat().st_mtime_ns == stamp
    path.write_bytes(b"damaged")
    read(told)
    assert path.read_bytes() == FILE


def test_everything_a_command_tells_is_in_the_reading(tmp_path: Path) -> None:
    answer = {"latency_ms": 2.0, "spread": 0.01, "runs": 50, "runtime": "lib 3.1", "power_mw": 40.0,
              "memory_bytes": 1000, "flash_bytes": 2000, "governor": "performance", "provider_share":
              {"CPUExecutionProvider": 0.9, "Other": 0.1}}
    told = profile(tmp_path, *script(tmp_path, f"print('warm'); say(**{answer!r}); print('bye')"))
    old = Calibration(form="map", coefficients={}, doubt=1.2, loo_mape=0.1, models=5, runtime_version="3.0")
    reading = read(told.model_copy(update={"calibration": {"fp32": old}}))
    assert (reading.latency_ms, reading.reference_ms, reading.ratio) == (2.0, 2.0, 1.0)
    assert (reading.power_mw, reading.memory_bytes, reading.flash_bytes) == (40.0, 1000, 2000)
    assert reading.low_ms == pytest.approx(2 * (1 - 0.0196)) and reading.pairs == 50 and reading.settled
    assert "governor: performance" in reading.notes
    assert "the profile was calibrated for 3.0, the device runs lib 3.1: calibrate it again" in reading.notes
    same = old.model_copy(update={"runtime_version": "3.1"})
    assert not [n for n in read(told.model_copy(update={"calibration": {"fp32": same}})).notes if "again" in n]


@pytest.mark.parametrize(("body", "problem"), [
    ("print('Segmentation fault')", "no JSON object but: Segmentation fault"),
    ("pass", "no JSON object but: nothing"),
    ("say(runs=3)", "latency_ms is None"),
    ("say(latency_ms=float('nan'))", "latency_ms is nan"),
    ("say(latency_ms=-1)", "latency_ms is -1"),
    ("say(latency_ms='fast')", "latency_ms is 'fast'"),
    ("sys.exit('out of storage')", r"failed \(1\): out of storage"),
    ("say(latency_ms=1, sha256='0' * 64)", "changed on the way: this machine ran 0000"),
    ("say(latency_ms=1, provider_share={'CUDA': 0.8, 'CPUExecutionProvider': 0.2})", "ran 20% of the nodes"),
    ("path.write_bytes(b'other'); say(latency_ms=1)", "changed on the way: it is no longer"),
])
def test_a_candidate_fails_with_a_reason_when_the_command_does_not_answer(
    tmp_path: Path, body: str, problem: str
) -> None:
    with pytest.raises(MetricError, match=problem):
        read(profile(tmp_path, *script(tmp_path, body)))


def test_a_command_that_hangs_is_killed_at_its_time_limit(tmp_path: Path) -> None:
    told = profile(tmp_path, *script(tmp_path, "(here / 'pid').write_text(str(__import__('os').getpid()))\n"
                                               "time.sleep(60)"), timeout_s=1)
    began = time.monotonic()
    with pytest.raises(MetricError, match="did not end within 1 s"):
        read(told)
    assert time.monotonic() - began < 10
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


GROWS = """
count = here / 'count'
n = int(count.read_text()) if count.exists() else 0
count.write_text(str(n + 1))
say(latency_ms={latency})
"""


def test_a_reading_is_refused_when_the_reference_moves_twice(tmp_path: Path) -> None:
    told = profile(tmp_path, *script(tmp_path, GROWS.format(latency="1 + 0.05 * n")))
    with pytest.raises(MetricError, match=r"the reference moved by 8\.7%, from 1\.15 to 1\.25 ms"):
        read(told)
    assert (tmp_path / "count").read_text() == "6"


def test_a_reading_is_taken_when_the_reference_moves_only_once(tmp_path: Path) -> None:
    told = profile(tmp_path, *script(tmp_path, GROWS.format(latency="[1, 1, 2, 2, 1, 2.04][n]")))
    reading = read(told)
    assert (reading.latency_ms, reading.reference_ms) == (1.0, 2.02)
    assert reading.spread == pytest.approx(0.02)


ALONE = """
inside = here / 'inside'
inside.mkdir()  # fails when somebody else is inside
time.sleep(0.2)
inside.rmdir()
say(latency_ms=1.0)
"""


def test_two_runners_never_measure_at_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(command.CommandDevice, "_lane", lambda self: command.nullcontext())
    told = profile(tmp_path, *script(tmp_path, ALONE))
    with ThreadPoolExecutor() as pool:
        readings = list(pool.map(lambda _: read(told), range(2)))
    assert [reading.latency_ms for reading in readings] == [1.0, 1.0]


def test_a_busy_device_is_given_up_after_a_while_and_free_when_its_holder_is_killed(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(command, "PATIENCE", 0)
    told = profile(tmp_path, *script(tmp_path, "say(latency_ms=1.0)"))
    lock = Path(told.backend.home) / "lock"
    read(told)
    hold = '( flock -n 9; echo "process 7 on lab" >"$1.who"; exec sleep 60 ) 9>>"$1"'
    holder = subprocess.Popen(["sh", "-c", hold, "sh", str(lock)], start_new_session=True)
    while "lab" not in lock.with_name("lock.who").read_text():
        time.sleep(0.02)
    with pytest.raises(MetricError, match="busy: measuring for process 7 on lab"):
        read(told)
    os.killpg(holder.pid, signal.SIGKILL)
    holder.wait()
    assert read(told).latency_ms == 1.0


def test_a_device_is_refused_at_the_start_when_it_lacks_something(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lacks no-such-program"):
        device(profile(tmp_path, "no-such-program", "{file}")).check()
    other = profile(tmp_path)
    wrong = other.runtime.model_copy(update={"provider": "CUDAExecutionProvider"})
    with pytest.raises(ConfigError, match="the profile wants CUDAExecutionProvider"):
        device(other.model_copy(update={"runtime": wrong})).check()
    with pytest.raises(ConfigError, match="a folder /proc/nowhere to write to"):
        device(profile(tmp_path, folder="/proc/nowhere")).check()
    with pytest.raises(ConfigError, match=r"failed \(2\): .*unrecognized arguments: .*--probe"):
        device(profile(tmp_path, sys.executable, "-c", "import argparse; argparse.ArgumentParser().parse_args()",
                       "{script}", "{file}")).check()


def test_words_of_the_command_reach_the_device_as_they_are(tmp_path: Path) -> None:
    body = "say(latency_ms=1, runtime=json.dumps(sys.argv[2:]))"
    odd = ("a b", "$HOME", "'\"; touch x", '{"json": 1}', "--threads={threads}/{batch}")
    reading = read(profile(tmp_path, *script(tmp_path, body), *odd))
    assert json.loads(reading.notes[0].removeprefix("runtime: ")) == [*odd[:-1], "--threads=1/1"]


ADB = """#!/bin/sh
# Stands in for adb: the device is a folder of this machine.
echo "$@" >>"$ADB_LOG"
while [ "$1" = -s ] || [ "$1" = -P ]; do [ "$2" = gone ] && { echo "error: device 'gone' not found" >&2; exit 1; }; shift 2; done
case $1 in
  push) cp "$2" "$3";;
  shell) shift; exec sh -c "$*";;
esac
"""


def test_an_android_device_is_reached_through_adb(tmp_path: Path, monkeypatch) -> None:
    adb = tmp_path / "bin" / "adb"
    adb.parent.mkdir()
    adb.write_text(ADB)
    adb.chmod(0o755)
    monkeypatch.setenv("PATH", f"{adb.parent}:/usr/bin:/bin")
    monkeypatch.setenv("ADB_LOG", str(tmp_path / "log"))
    told = profile(tmp_path, *script(tmp_path, "say(latency_ms=1.5)"), transport="adb", host="SERIAL7")
    device(told).check()
    assert read(told).latency_ms == 1.5
    calls = (tmp_path / "log").read_text()
    assert calls.count("-s SERIAL7 push ") == 2 and calls.count("-s SERIAL7 shell ") > 5
    gone = told.model_copy(update={"backend": told.backend.model_copy(update={"host": "gone"})})
    with pytest.raises(ConfigError, match="cannot reach gone: error: device 'gone' not found"):
        device(gone).check()
    with pytest.raises(MetricError, match="cannot reach gone"):
        read(gone)


def test_a_command_backend_is_refused_when_it_cannot_work() -> None:
    for fields, problem in (({"transport": "ssh"}, "needs a host"),
                            ({"transport": "ssh", "host": "-oProxyCommand=x"}, "pattern"),
                            ({"transport": "local", "command": ("true",)}, "does not name {file}"),
                            ({"transport": "local", "command": ("true", "{file}", "{model}")}, "known: file, script"),
                            ({"transport": "local", "folder": "here"}, "pattern")):
        with pytest.raises(ValidationError, match=problem):
            Command(**fields)
    assert Command(transport="adb").home == "/data/local/tmp/pared"


def test_an_answer_is_the_last_json_object_of_what_was_printed() -> None:
    found = parse('{"latency_ms": 9}\n[1]\n{"latency_ms": 3, "provider_share": {"A": 1}}\ndone\n{broken')
    assert found.latency_ms == 3 and found.share("A") == 1 and found.share("B") == 0


def test_the_host_reads_what_the_pairs_say(monkeypatch) -> None:
    timing = Timing(1.0, 2.0, 0.52, spread=0.01, p95_ms=1.1, clean=1.0, pairs=240)
    monkeypatch.setattr(host, "compare", lambda *args: timing)
    reading = device(load("host-cpu")).read(FILE, REFERENCE, (), QUICK)
    assert reading.ratio == pytest.approx(0.52) and reading.reference_ms == 2.0
    assert (reading.low_ms, reading.high_ms) == pytest.approx((1.04 * 0.9804, 1.04 * 1.0196))
    assert reading.settled and reading.pairs == 240


def test_a_host_profile_is_refused_when_its_runtime_runs_elsewhere_or_has_no_clock() -> None:
    told = load("host-cpu")
    device(told).check()
    for fields, problem in (({"provider": "CUDA"}, "the profile says CUDA"),
                            ({"name": "qnn"}, "runtime qnn"), ({"name": "onxruntime"}, "did you mean 'onnxruntime'")):
        with pytest.raises(UserError, match=problem):
            device(told.model_copy(update={"runtime": told.runtime.model_copy(update=fields)})).check()
    gpu = told.runtime.model_copy(update={"name": "onnxruntime-cuda", "provider": "CUDAExecutionProvider"})
    far = told.model_copy(update={"runtime": gpu, "backend": Node(resource="device:jetson")})
    device(far).check()  # what is installed there is not for this machine to say


def test_a_reading_is_no_reading_when_the_latency_is_no_number() -> None:
    good = Reading(2.0, 4.0, 1.9, 2.1)
    assert good.ratio == 0.5 and dataclasses.replace(good, reference_ms=None).ratio is None
    for bad in (float("nan"), float("inf"), 0.0, -1.0):
        with pytest.raises(MetricError, match="finite"):
            dataclasses.replace(good, latency_ms=bad)


A, B = "a" * 64, "b" * 64


def csv(folder: Path, *rows: str, header: str = "sha256,latency_ms,energy_uj,ram_kb") -> Path:
    path = folder / "results.csv"
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def test_results_are_read_in_order_with_their_units(tmp_path: Path) -> None:
    rows = read_csv(csv(tmp_path, f"{A},10,,", f"{B[:12]}, 5.5, 1500, 64", f"{A.upper()},10.4,,"))
    check_reference(rows, A)
    assert rows[1].is_of(B) and not rows[1].is_of(A)
    assert (rows[1].latency_ms, rows[1].energy_mj, rows[1].ram_bytes) == (5.5, 1.5, 65536)
    assert rows[0].energy_mj is None and rows[2].sha256 == A
    plain = read_csv(csv(tmp_path, f"{A},1", header="\ufeffsha256, latency_ms"))  # as spreadsheets save it
    assert plain[0].ram_bytes is None


@pytest.mark.parametrize(("row", "problem"), [
    ("abc,1,,", "line 3: sha256 'abc' is not"),
    (f"{B},fast,,", "line 3: latency_ms is 'fast'"),
    (f"{B},nan,,", "line 3: latency_ms is 'nan'"),
    (f"{B},0,,", "line 3: latency_ms is '0'"),
    (f"{B},,,", "line 3: no latency_ms"),
    (f"{B}", "line 3: no latency_ms"),
    (f"{B},1,,,9", "line 3: more cells"),
    (f"{B},1,-3,", "line 3: energy_uj is '-3'"),
])
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, row: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_csv(csv(tmp_path, f"{A},10,,", row, f"{A},10,,"))


def test_results_are_refused_when_nothing_shows_the_drift_or_it_is_large(tmp_path: Path) -> None:
    for rows, problem in (((f"{A},10,,", f"{B},5,,"), "begin and end"), ((f"{A},10,,",), "begin and end"),
                          ((f"{A},10,,", f"{B},5,,", f"{A},10.73,,"), r"moved by 7\.3%"),
                          ((f"{A},10,,", f"{A},12,,", f"{A},10,,"), r"moved by 20\.0%")):
        with pytest.raises(ConfigError, match=problem):
            check_reference(read_csv(csv(tmp_path, *rows)), A)
    for header, problem in (("sha256,ms", "required: sha256, latency_ms"), ("", "columns none")):
        with pytest.raises(ConfigError, match=problem):
            read_csv(csv(tmp_path, header=header))
    with pytest.raises(ConfigError, match="no rows"):
        read_csv(csv(tmp_path))
    with pytest.raises(ConfigError, match="No such file"):
        read_csv(tmp_path / "absent.csv")

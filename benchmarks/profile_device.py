"""How long `pared profile-device` takes on this machine, and how far its fit is off: the demo's model."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import write

MODEL = Path(__file__).parents[1] / "examples" / "fashion_mnist" / "subject.py"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "pared", "profile-device", "host-cpu", "--model", f"{MODEL}:subject", "--json"],
                              cwd=folder, capture_output=True, text=True, check=True)
        wall_s = time.perf_counter() - began
    made = json.loads(done.stdout)
    fits = {dtype: {key: fit[key] for key in ("form", "models", "loo_mape", "doubt", "noise")}
            for dtype, fit in made["calibration"].items()}
    write("profile_device", {"wall_s": wall_s, "fits": fits, "measured": made["measured"]})


if __name__ == "__main__":
    main()

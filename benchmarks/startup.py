"""How long an import and `--help` take, each in fresh processes."""

import subprocess
import sys
from statistics import median
from time import perf_counter

from common import write


def seconds(*command: str) -> list[float]:
    took = []
    for _ in range(11):
        began = perf_counter()
        subprocess.run([sys.executable, *command], capture_output=True, check=True)
        took.append(perf_counter() - began)
    return took


if __name__ == "__main__":
    bare, imported, helped = seconds("-c", "pass"), seconds("-c", "import pared"), seconds("-m", "pared", "--help")
    write("startup", {"python_s": median(bare), "import_pared_s": median(imported) - median(bare),
                      "help_s": median(helped), "raw_s": [bare, imported, helped]})

"""A search under a latency and a size budget on the demo's subject: training spent on what breaks them."""

import tempfile
from dataclasses import asdict
from pathlib import Path

from common import write

import pared
from pared.errors import BudgetError
from pared.search import study as book

DEMO = Path(__file__).parent.parent / "examples" / "fashion_mnist" / "subject.py"
BUDGETS = {"host-cpu": {"latency": "4x"}, "size": "12%"}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = pared.search(f"{DEMO}:subject", budgets=BUDGETS, trials=14, timeout="4m", out=Path(folder) / "run",
                           space={"recover": {"epochs": 1}}, max_accuracy_drop=0.01)
        outcomes = [{"trial": t.number, **{k: t.user_attrs[book.OUTCOME][k] for k in
                    ("state", "reason", "train_s", "broken")}} for t in run.trials]
        try:
            picked = run.pick().to_json()
        except BudgetError as error:
            picked = {"none": str(error)}
        write("budget", {
            "budgets": BUDGETS, "counts": asdict(run.counts()),
            "train_s_all": sum(o["train_s"] for o in outcomes),
            "train_s_over_budget": sum(o["train_s"] for o in outcomes if o["broken"]),
            "picked": picked.get("label", picked), "outcomes": outcomes})


if __name__ == "__main__":
    main()

"""The table and the picture of `search_efficiency.py`, from its log."""

import shutil
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from tables import Table

DOCS = Path(__file__).parent.parent / "docs"
AT, LATE, ENOUGH = (25, 50, 100), 200, 0.95
TPE, OURS = "tpe multivariate", "front"
NAMES = {OURS: "FrontSampler", TPE: "TPE, multivariate", "tpe": "TPE, default", "nsga2": "NSGA-II, population 20",
         "gp": "GP (one table)", "random": "random", "random + cost check": "random + cost check"}
COLOURS = {OURS: "#d1495b", TPE: "#00798c", "tpe": "#66a5ad", "nsga2": "#edae49", "random": "#9a9a9a",
           "random + cost check": "#5c5c5c"}

Rows = list[dict[str, Any]]


def curve(row: dict[str, Any], table: Table) -> np.ndarray:
    """Share of the table's hypervolume after 1, 2, ... evaluations."""
    found = row["found"]
    return np.array([table.hypervolume(found[:n]) / table.full for n in range(1, len(found) + 1)])


def report(rows: Rows, tables: dict[str, Table]) -> dict[str, Any]:
    """Figures, by setting and sampler; writes the picture."""
    curves: dict[tuple[str, str], dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        curves[row["setting"], row["sampler"]][row["table"]].append(curve(row, tables[row["table"]]))
    draw({sampler: by for (setting, sampler), by in curves.items() if setting == "plain"})
    return {"tables": sorted(tables), "seeds": max(len(each) for by in curves.values() for each in by.values()),
            "hypervolume": {f"{setting}, {sampler}": shares(by) for (setting, sampler), by in sorted(curves.items())},
            "evaluations": evaluations(curves["plain", OURS], curves["plain", TPE]),
            "regret": regrets([row for row in rows if row["setting"] == "budget"], tables),
            "proposals": proposals(rows, tables)}


def shares(by: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """At 25, 50, 100 (and 200) evaluations: the mean over tables, the worst table, each table."""
    means = {table: [float(np.mean([c[n - 1] for c in each])) for n in (*AT, LATE) if len(each[0]) >= n]
             for table, each in by.items()}
    common = min(map(len, means.values()))
    values = np.array([each[:common] for each in means.values()])
    return {"mean": values.mean(0).tolist(), "worst": values.min(0).tolist(), "by_table": means}


def evaluations(ours: dict[str, list[np.ndarray]], theirs: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """How many FrontSampler's mean curve needs for what TPE's reaches at 100; who is ahead at 100 and 200."""
    found = {}
    for table in ours:
        mine, other = np.mean(ours[table], axis=0), np.mean(theirs[table], axis=0)
        found[table] = {"to_reach_tpe_at_100": reaching(mine, other[99]),
                        "ahead_at_100": bool(mine[99] >= other[99]), "ahead_at_200": bool(mine[199] >= other[199]),
                        f"to_reach_{ENOUGH:.0%}": reaching(mine, ENOUGH),
                        f"tpe_to_reach_{ENOUGH:.0%}": reaching(other, ENOUGH)}
    needed = [each["to_reach_tpe_at_100"] for each in found.values()]
    return {"mean": float(np.mean(needed)), "worst": max(needed), "by_table": found}


def reaching(values: np.ndarray, target: float) -> int | None:
    """After how many evaluations; None where they were not enough."""
    there = np.flatnonzero(values >= target)
    return int(there[0]) + 1 if len(there) else None


def regrets(rows: Rows, tables: dict[str, Table]) -> dict[str, Any]:
    """Points of accuracy lost under the hard budget after 25 and 50 evaluations."""
    found: dict[str, list[list[float]]] = defaultdict(list)
    for row in rows:
        table = tables[row["table"]]
        found[row["sampler"]].append([table.regret(row["found"][:n]) for n in AT[:2]])
    return {sampler: np.mean(each, axis=0).tolist() for sampler, each in found.items()}


def proposals(rows: Rows, tables: dict[str, Table]) -> dict[str, Any]:
    """Of FrontSampler: repeated ones, those over the known budget, and the time that one took."""
    ours = [row for row in rows if row["sampler"] == OURS]
    over = sum(tables[r["table"]].latency[i] > tables[r["table"]].budget
               for r in ours if r["setting"] == "budget" for i in r["found"])
    return {"repeated": sum(len(r["found"]) - len(set(r["found"])) for r in ours), "over_budget": int(over),
            "median_ms": float(np.median([r["ms_a_proposal"] for r in ours]))}


def draw(curves: dict[str, dict[str, list[np.ndarray]]]) -> None:
    names = sorted(curves[OURS])
    across = -(-(len(names) + 1) // 2)
    figure = make_subplots(2, across, subplot_titles=[*names, "mean"], vertical_spacing=0.12)
    for sampler, colour in COLOURS.items():
        by = {table: np.mean(each, axis=0) for table, each in curves[sampler].items()}
        for place, values in enumerate([*(by[name] for name in names), np.mean(list(by.values()), axis=0)]):
            figure.add_scatter(
                row=place // across + 1, col=place % across + 1, x=np.arange(1, len(values) + 1), y=values, mode="lines",
                name=NAMES[sampler], line={"color": colour, "width": 3 if sampler == OURS else 1.5},
                showlegend=not place, legendgroup=sampler)
    figure.update_yaxes(range=[0.6, 1.0], tickformat=".0%")
    figure.update_xaxes(range=[0, LATE])
    figure.update_layout(template="plotly_white", width=1300, height=640, margin={"t": 90, "l": 50, "r": 20, "b": 50},
                         title="Share of the table's hypervolume, by evaluations", legend={"orientation": "h", "y": -0.06})
    picture(figure, DOCS / "search_efficiency.png")


def picture(figure: go.Figure, path: Path) -> None:
    """As a browser draws it."""
    browser = shutil.which("chromium")
    if browser is None:
        print(f"no chromium: {path} is left as it is")
        return
    size = f"{figure.layout.width},{figure.layout.height}"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figure.html"
        html = figure.to_html(include_plotlyjs=True, config={"staticPlot": True})
        page.write_text(html.replace("<body>", "<body style=\"margin: 0; overflow: hidden\">"))
        subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                        f"--user-data-dir={folder}/profile", f"--window-size={size}", "--virtual-time-budget=4000",
                        f"--screenshot={path}", page.as_uri()], check=True, capture_output=True)

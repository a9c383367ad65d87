"""The pictures of the page: a front per profile, and the hypervolume over time."""

import math
from itertools import pairwise

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ...spaces.sensitivity import Sensitivity
from ..candidate import Candidate
from ..front import hypervolume
from ..labels import speed
from .story import Story

INK, FAINT, FRONT, UNTOUCHED, BUDGET = "#1b1f24", "#aab4c0", "#0b6bcb", "#d1495b", "#e08e0b"
BEST = "#7a3fb5"


TICKS = [digit * 10.0**power for power in range(-4, 5) for digit in (1, 2, 3, 5, 7)]


def front(story: Story, profile: str) -> go.Figure:
    """Accuracy over latency, the front drawn as steps, budgets as lines. Points carry their trial."""
    on_front = {c.trial for c in story.fronts[profile]}
    rest = [c for c in story.scored if c.trial not in on_front]
    figure = go.Figure()
    figure.add_trace(_points(rest, profile, "other candidates", FAINT, 8))
    figure.add_trace(_edge(story, profile))
    figure.add_trace(_points(list(story.fronts[profile]), profile, "Pareto set (colour: size)", FRONT, 12))
    figure.data[-1].marker.update(
        color=[c.metrics["size_bytes"].value / 1e3 for c in story.fronts[profile]], colorscale="Viridis",
        colorbar={"title": "kB", "thickness": 12, "len": 0.8})
    figure.add_trace(_points([story.untouched], profile, "untouched model", UNTOUCHED, 14, "star"))
    if story.best_for_all and len(story.profiles) > 1:
        figure.add_trace(_points([story.best_for_all], profile, "best for all profiles", BEST, 16,
                                 "circle-open"))
    if limit := story.limits.get(f"latency_ms@{profile}"):
        figure.add_vline(limit, line_dash="dash", line_color=BUDGET,
                         annotation_text=f"budget {limit:.3g} ms")
    if story.max_drop is not None:
        least = story.untouched.metrics["accuracy"].value - story.max_drop
        figure.add_hline(least, line_dash="dot", line_color=BUDGET,
                         annotation_text=points(story.max_drop))
    figure.update_xaxes(title=f"latency on {profile}, ms ({story.labels[profile]})", type="log",
                        gridcolor="#e9edf1", tickvals=TICKS, ticktext=[f"{tick:g}" for tick in TICKS])
    figure.update_yaxes(title="accuracy on validation", tickformat=".1%", gridcolor="#e9edf1",
                        range=_range(story))
    return _styled(figure, 480)


def progress(story: Story, profile: str) -> go.Figure:
    """Hypervolume of (latency ratio, lost accuracy) within (1, 1), after each scored candidate."""
    seen: list[tuple[float, float]] = []
    minutes, volumes = [0.0], [0.0]
    for end in sorted(story.ended, key=lambda e: e.at_s):
        if end.candidate and end.candidate.runs_on([profile]):
            ratio = end.candidate.latency(profile).ratio or 1.0
            seen.append((ratio, 1 - end.candidate.metrics["accuracy"].value))
            minutes.append(end.at_s / 60)
            volumes.append(hypervolume(seen, (1.0, 1.0)))
    figure = go.Figure(go.Scatter(x=minutes, y=volumes, mode="lines+markers", line_shape="hv",
                                  line_color=FRONT, hovertemplate="%{x:.1f} min: %{y:.4f}<extra></extra>"))
    figure.update_xaxes(title="minutes", gridcolor="#e9edf1")
    figure.update_yaxes(title="hypervolume (latency ratio x accuracy)", gridcolor="#e9edf1")
    return _styled(figure, 300)


def sensitivity(found: Sensitivity) -> go.Figure:
    """What each layer alone costs the outputs: at few bits, at 8 bits with its inputs, and narrower."""
    rows = [{f"{bits} bits": rise for bits, rise in row.items()} | {"int8": found.int8[name]}
            for name, row in found.bits.items()]
    narrow = [{f"{ratio:.0%} narrower": rise for ratio, rise in row.items()} for row in found.ratios.values()]
    figure = make_subplots(1, 2, column_titles=["fewer bits", "fewer channels"], horizontal_spacing=0.2)
    for column, (names, table) in enumerate(((list(found.bits), rows), (list(found.ratios), narrow)), 1):
        if table:
            figure.add_trace(_heat(names, table), 1, column)
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_layout(coloraxis={"colorscale": "YlOrRd", "colorbar": {
        "title": "share of the<br>outputs, squared", "thickness": 12,
        "tickvals": list(range(-8, 3, 2)), "ticktext": [f"{10.0**power:g}" for power in range(-8, 3, 2)]}})
    return _styled(figure, 160 + 26 * max(len(rows), len(narrow)))


def _heat(names: list[str], table: list[dict[str, float]]) -> go.Heatmap:
    columns = list(table[0])
    rises = [[row[column] for column in columns] for row in table]
    return go.Heatmap(
        z=[[math.log10(max(1e-12, rise)) for rise in row] for row in rises], x=columns, y=names,
        text=[[f"{rise:.1e}" for rise in row] for row in rises], texttemplate="%{text}",
        coloraxis="coloraxis", hovertemplate="%{y}, %{x}: %{text}<extra></extra>")


def points(drop: float) -> str:
    """0.01 -> "1 point lost"."""
    return f"{drop * 100:g} point{'' if drop == 0.01 else 's'} lost"


def _points(
    candidates: list[Candidate], profile: str, name: str, colour: str, size: int, symbol: str = "circle"
) -> go.Scatter:
    candidates = [c for c in candidates if c.runs_on([profile])]
    return go.Scatter(
        x=[c.latency(profile).value for c in candidates],
        y=[c.accuracy(profile).value for c in candidates],
        error_x=_intervals(candidates, profile),
        customdata=[c.trial for c in candidates],
        text=[_hover(c, profile) for c in candidates],
        mode="markers", name=name, hovertemplate="%{text}<extra></extra>",
        marker={"color": colour, "size": size, "symbol": symbol, "line": {"width": 1, "color": "white"}})


def _edge(story: Story, profile: str) -> go.Scatter:
    """The staircase of accuracy over latency alone: members of the set for their size lie under it."""
    steps: list[tuple[float, float]] = []
    for candidate in story.fronts[profile]:
        point = (candidate.latency(profile).value, candidate.accuracy(profile).value)
        if not steps or point[1] > steps[-1][1]:
            steps.append(point)
    return go.Scatter(x=[x for x, _ in steps], y=[y for _, y in steps], mode="lines", line_shape="hv",
                      line={"color": FRONT, "width": 1.5}, hoverinfo="skip", showlegend=False)


def _hover(candidate: Candidate, profile: str) -> str:
    latency = candidate.latency(profile)
    return (f"<b>trial {candidate.trial}</b>: {'<br>+ '.join(candidate.recipe.label.split(' + '))}<br>"
            f"{latency.value:.3g} ms ({speed(latency)}), "
            f"{candidate.accuracy(profile).value:.2%} "
            f"({candidate.drop.value * 100:+.2f} points lost), "
            f"{candidate.metrics['size_bytes'].value / 1e3:.0f} kB")


def _intervals(candidates: list[Candidate], profile: str) -> dict[str, object] | None:
    """The 95 % intervals, where they are wide enough to be seen."""
    latencies = [c.latency(profile) for c in candidates]
    if not latencies or any(t.evidence != "predicted" or t.low is None or t.high is None
                            for t in latencies):
        return None
    return {"type": "data", "array": [(t.high or t.value) - t.value for t in latencies],
            "arrayminus": [t.value - (t.low or t.value) for t in latencies],
            "thickness": 0.8, "width": 2, "color": FAINT}


def _range(story: Story) -> list[float]:
    """From the worst of the candidates that are any good, so that the interesting part is seen."""
    values = sorted(e.candidate.metrics["accuracy"].value for e in story.ended if e.candidate)
    jumps = [(b - a, b) for a, b in pairwise(values) if b - a > 0.05 and b < values[-1] - 0.03]
    low = max((b for _, b in jumps), default=values[0])
    margin = max(0.003, (values[-1] - low) * 0.1)
    return [low - margin, values[-1] + margin]


def _styled(figure: go.Figure, height: int) -> go.Figure:
    return figure.update_layout(
        height=height, template="plotly_white", font={"family": "system-ui, sans-serif", "color": INK},
        margin={"l": 70, "r": 30, "t": 30, "b": 60}, legend={"orientation": "h", "y": 1.08, "x": 0})

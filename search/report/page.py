"""Story -> one HTML file that needs no network. Every string that came from outside is escaped."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from plotly.io import to_html
from plotly.offline import get_plotlyjs

from ...errors import RunError
from ..candidate import Candidate
from . import figures
from .story import Story

PAGE = Path(__file__).parent / "page.html"


def write(story: Story, target: Path) -> None:
    """Writes the page. Raises RunError when it cannot."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page(story), encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write the report {target}: {error}") from error


def page(story: Story) -> str:
    """The HTML text."""
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        title=escape(story.path),
        summary=_summary(story),
        fronts="\n".join(_front(story, profile) for profile in story.profiles),
        progress=_figure(figures.progress(story, story.profiles[0]), "progress"),
        table=_candidates(story),
        refused=_ends(story, "refused"),
        failed=_ends(story, "failed"),
        cards=_cards(story),
        run=_script(story.path),
        plotly=get_plotlyjs(),
    )


def _summary(story: Story) -> str:
    counts = {state: len(story.with_state(state)) for state in ("complete", "refused", "failed")}
    budgets = [f"{name} at most {limit:.4g}" for name, limit in story.limits.items()]
    if story.max_drop is not None:
        budgets.append(f"at most {figures.points(story.max_drop)}")
    return (f"{counts['complete']} candidates scored, {counts['refused']} refused before training, "
            f"{counts['failed']} failed, {story.trained} trainings. "
            f"Budgets: {escape('; '.join(budgets)) or 'none'}.")


def _front(story: Story, profile: str) -> str:
    return f"<h2>{escape(profile)}</h2>\n" + _figure(figures.front(story, profile), f"front-{profile}")


def _figure(figure: object, name: str) -> str:
    html: str = to_html(figure, full_html=False, include_plotlyjs=False, div_id=escape(name),
                        config={"displaylogo": False, "responsive": True})
    return html


def _candidates(story: Story) -> str:
    on_front = {c.trial for front in story.fronts.values() for c in front}
    shown = [e.candidate for e in story.ended if e.candidate]
    shown.sort(key=lambda c: (c.trial not in on_front, c.latency(story.profiles[0]).value))
    head = ["trial", "recipe", "accuracy", "lost, 95 % interval", "test", "kB",
            "peak activations, kB (predicted)"]
    for profile in story.profiles:
        head += [f"ms {profile} ({story.untouched.latency(profile).evidence})", "speed-up", "notes"]
    rows = [_row(story, c, c.trial in on_front) for c in shown]
    return _table(head, rows)


def _row(story: Story, c: Candidate, on_front: bool) -> list[str]:
    drop = f"{c.drop.value * 100:+.2f} ({c.drop.low * 100:+.2f}..{c.drop.high * 100:+.2f})"
    cells = [f"{c.trial}{' ●' if on_front else ''}", c.recipe.label,
             f"{c.metrics['accuracy'].value:.4f}", drop, f"{c.test.value:.4f}" if c.test else "",
             f"{c.metrics['size_bytes'].value / 1e3:.0f}",
             f"{c.metrics['memory_bytes'].value / 1e3:.0f}"]
    for profile in story.profiles:
        latency = c.latency(profile)
        notes = [f"{', '.join(names)}: size only"] if (names := c.size_only.get(profile)) else []
        notes += ["slower than untouched"] if (latency.ratio or 0) > 1.02 else []
        notes += ["unstable"] if latency.unstable else []
        cells += [f"{latency.value:.4g}", f"{1 / (latency.ratio or 1):.2f}x", "; ".join(notes)]
    return cells


def _ends(story: Story, state: str) -> str:
    rows = [[str(e.trial), e.label, e.reason] for e in story.with_state(state)]
    return _table(["trial", "recipe", "why"], rows) if rows else "<p>none</p>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr data-trial='{escape(row[0].split()[0])}'>"
                   + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _cards(story: Story) -> str:
    return _script({str(e.trial): e.candidate.to_json() for e in story.ended if e.candidate})


def _script(value: object) -> str:
    """JSON that can stand inside a script element."""
    return json.dumps(value).replace("<", "\\u003c").replace("&", "\\u0026")

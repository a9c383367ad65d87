"""Story -> one HTML file that needs no network. Every string that came from outside is escaped."""

import json
from html import escape
from pathlib import Path
from string import Template

from plotly.io import to_html
from plotly.offline import get_plotlyjs

from ...errors import RunError
from ..labels import limit_text
from . import figures, tables
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
        fronts="\n".join(_profile(story, profile) for profile in story.profiles),
        progress=_figure(figures.progress(story, story.profiles[0]), "progress"),
        sensitivity=_sensitivity(story),
        table=tables.candidates(story),
        refused=tables.ends(story, "refused"),
        failed=tables.ends(story, "failed"),
        cards=_cards(story),
        run=_script(story.path),
        plotly=get_plotlyjs(),
    )


def _summary(story: Story) -> str:
    counts = {state: len(story.with_state(state)) for state in ("complete", "refused", "failed")}
    limits = [f"{name} at most {limit_text(name, limit)}" for name, limit in story.limits.items()]
    if story.max_drop is not None:
        limits.append(f"at most {figures.points(story.max_drop)}")
    return (f"{counts['complete']} candidates scored, {counts['refused']} refused before training, "
            f"{counts['failed']} failed, {story.trained} trainings{_saved(story)}. "
            f"Budgets and limits: {escape('; '.join(limits)) or 'none'}.{escape(_best(story))}")


def _saved(story: Story) -> str:
    return f", shared by others, which saved {story.saved:.0%} of the trials' time" if story.saved else ""


def _best(story: Story) -> str:
    if len(story.profiles) == 1:
        return ""
    best = story.best_for_all
    return (f" The best single model for all profiles is trial {best.trial} ({best.recipe.label})." if best
            else " No single model meets every limit.")


def _profile(story: Story, profile: str) -> str:
    """Picture and figures of one profile, with what does not run there."""
    absent = [c for c in story.scored if c.recipe.steps and profile in c.absent]
    why = (f"<p>{len(absent)} candidates have no figure here, for example trial {absent[0].trial}: "
           f"{escape(absent[0].absent[profile])}.</p>" if absent else "")
    return (f"<h2>{escape(profile)} ({escape(story.labels[profile])})</h2>\n{why}"
            + _figure(figures.front(story, profile), f"front-{profile}")
            + f"<div class='scroll'>{tables.on_profile(story, profile)}</div>")


def _sensitivity(story: Story) -> str:
    if story.sensitivity is None:
        return "<p>No technique of this run asked for it.</p>"
    return ("<p>Squared error of the outputs when one layer alone is changed, untrained, as a share of "
            f"theirs, on {story.sensitivity.examples} calibration examples.</p>"
            + _figure(figures.sensitivity(story.sensitivity), "sensitivity"))


def _figure(figure: object, name: str) -> str:
    html: str = to_html(figure, full_html=False, include_plotlyjs=False, div_id=escape(name),
                        config={"displaylogo": False, "responsive": True})
    return html


def _cards(story: Story) -> str:
    return _script({str(c.trial): c.to_json() for c in story.scored})


def _script(value: object) -> str:
    """JSON that can stand inside a script element."""
    return json.dumps(value).replace("<", "\\u003c").replace("&", "\\u0026")

"""The page, in a real browser."""

import shutil
import subprocess
from pathlib import Path

import pytest

import pared
from pared.errors import RunError
from pared.search.report.page import page

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.browser]

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def opened(html: Path, profile: Path) -> str:
    """The document after its scripts ran."""
    if not BROWSER:
        pytest.skip("no chromium on this machine; apt-get install chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={profile}", "--virtual-time-budget=8000", "--dump-dom"]
    done = subprocess.run([BROWSER, *flags, html.as_uri()], capture_output=True, text=True, timeout=120)
    return done.stdout


def test_the_page_draws_the_front_and_a_click_shows_the_card(finished: Path, tmp_path: Path) -> None:
    run = pared.open_run(finished)
    path = run.report(tmp_path / "report.html")
    picked = run.front()[0].trial
    clicks = (f"<script>document.querySelector('.plotly-graph-div').emit('plotly_click', "
              f"{{points: [{{customdata: {picked}}}]}});</script></body>")
    path.write_text(path.read_text().replace("</body>", clicks))
    dom = opened(path, tmp_path / "profile")
    assert dom.count("main-svg") >= 2, "plotly drew nothing"
    assert "untouched model" in dom and "budget" in dom.lower()
    assert f"pared pick {finished} --trial {picked} -o shipped" in dom
    assert f"trial {picked}: " in dom


def test_the_page_needs_no_network_and_names_every_candidate(finished: Path, tmp_path: Path) -> None:
    text = pared.open_run(finished).report(tmp_path / "page.html").read_text()
    assert "<script src" not in text and "<link" not in text
    for candidate in pared.open_run(finished).candidates:
        assert f"data-trial='{candidate.trial}'" in text


def test_strings_from_outside_are_escaped(finished: Path) -> None:
    from dataclasses import replace

    story = pared.open_run(finished).story()
    evil = "</script><img src=x onerror=alert(1)>"
    ended = [replace(end, label=evil, reason=evil, state="failed", candidate=None) for end in story.ended[:1]]
    text = page(replace(story, path=evil, ended=[*ended, *story.ended[1:]]))
    assert "<img src=x" not in text


def test_an_unwritable_report_is_told(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write the report"):
        pared.open_run(finished).report(tmp_path / "file" / "report.html")

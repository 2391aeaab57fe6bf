"""README.md: its links lead somewhere, and what it shows runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdt.cli import run as command
from jaxdt.config import PRESETS


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "scripts").glob("*.md"))]


def heading_anchors(text: str) -> set[str]:
    """As GitHub makes them."""
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"(?m)^#+ (.*)$", text)}


def blocks(kind: str) -> list[str]:
    return [code for name, code in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", README) if name == kind]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_are_there(page):
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"(?s)```.*?```", "", text)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not target.startswith("http"):
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.is_file(), target
            assert not anchor or anchor in heading_anchors(file.read_text(encoding="utf-8")), target


def test_it_is_short_and_names_every_preset():
    assert len(README.splitlines()) <= 180
    table = README.split("## Which method")[1].split("##")[0]
    named = set(re.findall(r"`([\w-]+)`", table.replace("`…-small`", "`trajectory-transformer-small`")))
    assert PRESETS.keys() <= named


@pytest.mark.slow
def test_its_commands_run_word_for_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [lines] = [block.splitlines() for block in blocks("") if "jaxdt evaluate" in block]
    for line in lines:
        name, *arguments = line.split()
        assert name == "jaxdt"
        assert command(arguments) == 0, line
    head, _, *rows = (Path("compared") / "comparison.md").read_text().split("\n\n")[0].splitlines()
    assert head.startswith("| method")
    assert len(rows) > 1
    assert not [cell for row in rows for cell in row.split("|") if cell.strip() == "-"]


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: f"{len(code)} letters")
def test_its_python_runs_as_it_stands(tmp_path, code):
    """In a process of its own, as fast as users have it; test_demo_run.py trains the demo at full length."""
    code = code.replace('preset("demo", ', 'preset("demo", steps=40, eval_every=20, ')
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr

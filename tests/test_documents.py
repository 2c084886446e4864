"""The pages run: the Python examples of each, one after the other in one directory, and their links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pylog.cli import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")


def examples(page: Path) -> str:
    """Return the examples of a page as one script whose line numbers are the page's."""
    text = page.read_text()
    lines = [""] * text.count("\n")
    for found in EXAMPLE.finditer(text):
        first = text.count("\n", 0, found.start(1))
        for number, line in enumerate(found[1].splitlines(), first):
            lines[number] = line
    return "\n".join(lines)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if EXAMPLE.search(page.read_text())], ids=lambda p: p.stem
)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(examples(page), page.name, "exec"), {"__name__": "__page__"})
    assert (tmp_path / "data" / "format").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()] == []


def test_every_command_has_a_place_in_its_page() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    assert [name for name in COMMANDS if f"pylog {name}" not in text] == []


def test_the_quick_start_is_two_commands() -> None:
    block = re.search(r"## Quick start\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    assert [line.split("#")[0].strip() for line in block[1].splitlines()] == ["make demo", "make test"]

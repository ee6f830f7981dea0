"""Links between the pages lead somewhere: files, headings, pictures."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(ROOT), f"{page.name}: {link} leaves the repository"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_reachable_from_the_readme() -> None:
    seen: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        seen.add(page)
        links = [(page.parent / link.partition("#")[0]).resolve() for link in LINK.findall(page.read_text())]
        ahead += [link for link in links if link.suffix == ".md" and link.is_file() and link not in seen]
    assert set(PAGES) <= seen


@pytest.mark.parametrize("picture", ["parts", "life-of-a-request", "states"])
def test_drawings_read_in_light_and_dark_and_aloud(picture: str) -> None:
    text = (ROOT / f"docs/pictures/{picture}.svg").read_text()
    assert "prefers-color-scheme: dark" in text
    assert "<title" in text
    assert "<desc" in text
    assert not re.search(r"(?:href|src)=|url\(https?:", text), "loads nothing from elsewhere"

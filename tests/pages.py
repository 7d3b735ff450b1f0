"""The repository's Markdown pages, and what of them can be held against the code."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FOLDERS = [ROOT / name for name in ("configs", "flows", "infra", "tasks", "tests")]
PAGES = [
    README,
    *sorted((ROOT / ".github").glob("*.md")),
    *sorted(page for folder in FOLDERS for page in folder.rglob("*.md")),
]

_FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"^ {4}.*$", re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_TARGET = re.compile(r"\]\(([^)\s]+)\)")


def python_blocks(page: Path) -> list[str]:
    """The page's blocks of Python, as they stand there."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def code(text: str) -> list[str]:
    """Lines of code: blocks, fenced or indented, and what stands between backticks."""
    fenced = [line for block in _FENCED.findall(text) for line in block.splitlines()]
    text = _FENCED.sub("", text)
    return [*fenced, *(line.strip() for line in _INDENTED.findall(text)), *_SPAN.findall(_INDENTED.sub("", text))]


def links(text: str) -> list[str]:
    """The targets of links and pictures that lead to the repository's own files."""
    prose = _SPAN.sub("", _INDENTED.sub("", _FENCED.sub("", text)))
    return [target for target in _TARGET.findall(prose) if not re.match(r"[a-z]+:", target)]


def anchors(text: str) -> set[str]:
    """The names by which GitHub links to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str) -> set[str]:
    """The commands of saemill that code on the page gives, ``saemill train | score CONFIG`` being two."""
    given = re.compile(r"(?:^|[\s/`])saemill +([a-z][a-z-]*(?: \| [a-z][a-z-]*)*)")
    return {name for line in code(text) for names in given.findall(line) for name in names.split(" | ")}


def files(text: str) -> set[str]:
    """The source files that the page names, in code or prose; targets of links are not among them."""
    return set(re.findall(r"(?<![\w/.<>*-])[\w/-]+\.(?:py|yaml|sh)\b", _TARGET.sub("]", text)))


def sentences(text: str) -> Iterator[str]:
    """The sentences of the page's prose; code blocks, tables and headings have none."""
    prose = _TARGET.sub("]", _INDENTED.sub("", _FENCED.sub("", text)))
    prose = re.sub(r"^(?:#.*|\|.*|!\[.*)$", "", prose, flags=re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n|\n(?=- |\d+\. )", prose):
        yield from re.split(r"(?<=[.!?])\s+(?=[A-Z`*\[])", " ".join(paragraph.split()))

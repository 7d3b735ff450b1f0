"""README stays short, and no page of the repository speaks of what is not there."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from flows.cli import app
from flows.settings import listed
from tests.pages import FOLDERS, PAGES, README, ROOT, anchors, code, commands, files, links, sentences

WORDS = 1300
WORDS_OF_A_SENTENCE = 29
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
# Of these, a page tells what lies beside it; other pages may name any file of the repository.
TELL_OF_THEMSELVES = {"flows", "infra", "tasks"}


def known_commands() -> set[str]:
    return set(get_command(app).commands)


def named_from(page: Path) -> list[Path]:
    own = page.relative_to(ROOT).parts[0] in TELL_OF_THEMSELVES
    return [path for folder in ([page.parent] if own else FOLDERS) for path in folder.rglob("*") if path.is_file()]


def test_the_readme_is_read_in_minutes() -> None:
    assert len(README.read_text().split()) <= WORDS


def test_the_readmes_sentences_are_short() -> None:
    assert [each for each in sentences(README.read_text()) if len(each.split()) > WORDS_OF_A_SENTENCE] == []


def test_the_packages_have_pages_that_the_readme_links_to() -> None:
    linked = set(links(README.read_text()))
    pages = {path.relative_to(ROOT).as_posix() for path in PAGES if path.name == "README.md" and path != README}
    assert pages <= linked


@EVERY_PAGE
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page.read_text()):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@EVERY_PAGE
def test_every_command_is_known(page: Path) -> None:
    assert commands(page.read_text()) <= known_commands()


def test_the_page_of_flows_lists_every_command() -> None:
    assert commands((ROOT / "flows/README.md").read_text()) == known_commands()


@EVERY_PAGE
def test_every_setting_of_an_example_is_known(page: Path) -> None:
    known = {setting.name for setting in listed()} | {"a.b"}  # a.b=c stands for any
    given = {name for line in code(page.read_text()) for name in re.findall(r"--set ([\w.]+)=", line)}
    assert given <= known


@EVERY_PAGE
def test_every_file_that_is_named_is_there(page: Path) -> None:
    paths = [f"/{path.relative_to(ROOT).as_posix()}" for path in named_from(page)]
    missing = {name for name in files(page.read_text()) if not any(path.endswith(f"/{name}") for path in paths)}
    assert {name for name in missing if not (ROOT / name).exists()} == set()


@EVERY_PAGE
def test_every_module_that_is_run_is_there(page: Path) -> None:
    for module in re.findall(r"python -m (tests\.[\w.]*\w)", page.read_text()):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


# What the tests above rest on.


def test_commands_are_those_in_code() -> None:
    block = "    saemill train | score CONFIG  # what `saemill serve` has\n    .venv/bin/saemill gc\n"
    text = f"saemill finds; `saemill run X`\n\n{block}"
    assert commands(text) == {"run", "train", "score", "serve", "gc"}


def test_links_to_other_sites_and_brackets_in_code_are_left_out() -> None:
    assert links("[a](b.md#c), [d](https://e.org), ![f](g.png)\n\n    x[0](y)\n\n`z[1](w)`") == ["b.md#c", "g.png"]


def test_anchors_are_githubs() -> None:
    assert anchors("# The demo\n\n## Training's kills, and soak\n") == {"the-demo", "trainings-kills-and-soak"}


def test_a_sentence_ends_before_a_capital_and_a_list_before_its_next_item() -> None:
    text = "# No\n\nIt takes .92 of it. `make` it: 3.5\nmore. Done.\n- An item\n- another\n\n| a table. Here |\n"
    assert list(filter(None, sentences(text))) == [
        "It takes .92 of it.",
        "`make` it: 3.5 more.",
        "Done.",
        "- An item",
        "- another",
    ]


def test_files_are_named_by_their_path_or_its_end() -> None:
    assert files("see [x](a/b.py), c.py, d/e.yaml and *.py, tests.f") == {"c.py", "d/e.yaml"}

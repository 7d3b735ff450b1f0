"""What is a reference, what it stands for, and what is said where it stands for nothing."""

import pytest

from tasks.errors import InputError
from tasks.registry import resolve
from tasks.registry.registry import Registry
from tasks.registry.tagging import tag, tags_of
from tests.registry.stored import NOW, add, address, make_champion, store_sae


@pytest.fixture
def toy(folder: str) -> Registry:
    """Versions a and b, of which b is the champion after a."""
    registry = Registry.at(folder, "toy")
    for name in ("a", "b"):
        make_champion(registry, add(registry, store_sae(folder, name)))
    return registry


@pytest.mark.parametrize(
    ("text", "sae"), [("toy@champion", "b"), ("toy@champion~0", "b"), ("toy@champion~1", "a"), ("toy@1", "a")]
)
def test_a_reference_is_the_uri_of_a_version(text: str, sae: str, toy: Registry) -> None:
    assert resolve(text, toy.root) == address(toy.root, "saes", sae)


@pytest.mark.parametrize(
    "text", ["runs/saes/toy-0123456789ab", "./toy@1", "s3://bucket/toy@champion", "/x/toy@1", "toy", "", "a b@c", "toy@a@b@"]
)
def test_everything_else_comes_back_as_it_is(text: str, folder: str) -> None:
    assert resolve(text, folder) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tou@champion", r"There is no registry 'tou' at .*; there are toy\. Did you mean toy\?"),
        ("tou@1", r"There is no registry 'tou' at .*; there are toy\. Did you mean toy\?"),
        ("Toy@1", "must be of lower-case letters"),
        ("toy@9", r"toy has no version 9 at .*; there is 1 to 2\."),
        ("toy@champ", r"toy has no alias 'champ' at .*; there are champion, and versions by number"),
        ("toy@champion~2", "goes back further than champion was moved"),
        ("toy@1~1", "counts promotions back from a number"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(text: str, said: str, toy: Registry) -> None:
    with pytest.raises(InputError, match=said):
        resolve(text, toy.root)


def test_on_an_empty_storage_it_is_said_where_to_look(folder: str) -> None:
    with pytest.raises(InputError, match=r"There is no registry 'toy' at .*, nor any other\. Name another storage"):
        resolve("toy@champion", folder)


def test_tags_are_given_and_taken_away_and_nothing_is_forgotten(toy: Registry) -> None:
    assert tag(toy, 1, "keep", NOW)
    assert not tag(toy, 1, "keep", NOW)
    assert tag(toy, 2, "paper", NOW)
    assert tags_of(toy) == {1: {"keep"}, 2: {"paper"}}
    assert tag(toy, 1, "keep", NOW, present=False)
    assert tags_of(toy) == {2: {"paper"}}
    assert [(change.version, change.tag, change.present) for _, change in toy.tags.all()] == [
        (1, "keep", True),
        (2, "paper", True),
        (1, "keep", False),
    ]
    with pytest.raises(InputError, match="toy has no version 3"):
        tag(toy, 3, "keep", NOW)
    with pytest.raises(InputError, match="The tag is 'to keep'"):
        tag(toy, 1, "to keep", NOW)

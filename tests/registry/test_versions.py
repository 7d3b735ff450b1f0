"""Registering: what is the same SAE, what a version says of it, and what is refused."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.errors import ArtifactError, InputError
from tasks.registry.registering import register
from tasks.registry.registry import Registry, registry_names
from tasks.storage.artifacts import MANIFEST
from tasks.storage.objects import open_store
from tests.registry.stored import (
    NOW,
    add,
    hashed,
    store_activations,
    store_sae,
    store_scores,
)


def test_versions_are_numbered_in_the_order_in_which_they_come(three: Registry) -> None:
    assert [(number, version.version) for number, version in three.versions.all()] == [(1, 1), (2, 2), (3, 3)]
    assert registry_names(three.root) == ["toy"]


def test_the_same_content_is_the_version_that_it_has_also_from_another_place(folder: str) -> None:
    registry, here = Registry.at(folder, "toy"), store_sae(folder, "a")
    assert register(registry, here, NOW)[1]
    version, is_new = register(registry, here, NOW)
    assert (version.version, is_new) == (1, False)
    there = open_store(f"{folder}/copies/a")
    for info in open_store(here).list():
        there.put(info.key, open_store(here).get(info.key))
    assert add(registry, there.uri) == 1
    open_store(f"{folder}/saes").delete_folder(here.rpartition("/")[2])
    assert add(registry, there.uri) == 2, "the copy outlives what was registered"


def test_of_many_who_register_at_once_each_has_a_number_of_its_own(folder: str) -> None:
    registry = Registry.at(folder, "toy")
    saes = [store_sae(folder, str(n)) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda uri: add(registry, uri), saes))
        again = list(pool.map(lambda uri: add(registry, uri), saes))
    assert sorted(numbers) == list(range(1, 9))
    assert again == numbers


def test_of_many_who_register_the_same_at_once_all_have_one_version(root: str) -> None:
    registry, sae = Registry.at(root, "toy"), store_sae(root, "a")
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: add(registry, sae), range(8))) == {1}
    assert registry.versions.numbers() == [1]


def test_a_version_says_what_its_sae_was_made_of_and_its_figures(folder: str) -> None:
    store_activations(folder, "rows", tokens="text")
    sae = store_sae(folder, "a")
    version, _ = register(
        Registry.at(folder, "toy"), sae, NOW, scores=store_scores(folder, sae), started_from=7, tags=["keep"]
    )
    assert version.parents.model_dump() == {
        "activations": hashed("rows"),
        "tokens": hashed("text"),
        "model": "m",
        "revision": None,
        "champion": 7,
    }
    assert version.metrics == {"training_fvu": 0.2, "training_l0": 4.0, "training_loss": 1.0, "fvu": 0.1, "l0": 5.0}
    assert (version.sae, version.tags, version.by, version.when) == (
        f"saes/toy-{hashed('a')}",
        ("keep",),
        NOW.by,
        NOW.when,
    )


def test_the_version_that_a_warm_start_began_from_is_known_by_its_content(folder: str) -> None:
    registry = Registry.at(folder, "toy")
    for name in ("a", "b"):
        add(registry, store_sae(folder, name))
    content = registry.version(2).content
    warm = add(registry, store_sae(folder, "c", init_from=content))
    assert registry.version(warm).parents.champion == 2
    assert registry.version(add(registry, store_sae(folder, "d", init_from="sha256:0"))).parents.champion is None
    assert registry.version(add(registry, store_sae(folder, "e", init_from=content), started_from=1)).parents.champion == 1


def test_a_storage_may_be_moved_as_a_whole(folder: str) -> None:
    add(Registry.at(folder, "toy"), store_sae(folder, "a"))
    there = f"{folder}-moved"
    for info in open_store(folder).list():
        open_store(there).put(info.key, open_store(folder).get(info.key))
    moved = Registry.at(there, "toy")
    assert moved.uri_of(moved.version(1)) == f"{there}/saes/toy-{hashed('a')}"


def test_what_is_no_finished_sae_is_refused(folder: str) -> None:
    registry = Registry.at(folder, "toy")
    with pytest.raises(InputError, match=r"There is no SAE at .*: it lacks sae\.safetensors"):
        add(registry, f"{folder}/nowhere")
    with pytest.raises(InputError, match="is a directory of stage activations"):
        add(registry, store_activations(folder, "rows"))
    unfinished = store_sae(folder, "b")
    open_store(unfinished).delete(MANIFEST)
    with pytest.raises(InputError, match="is not finished"):
        add(registry, unfinished)
    damaged = store_sae(folder, "c")
    open_store(damaged).put("sae.safetensors", b"others")
    with pytest.raises(ArtifactError, match=r"sae\.safetensors is not what its manifest says"):
        add(registry, damaged)
    one, other = store_sae(folder, "d"), store_sae(folder, "e")
    with pytest.raises(InputError, match="holds no scores of"):
        add(registry, one, scores=store_scores(folder, other))
    assert registry.versions.numbers() == []


@pytest.mark.parametrize("name", ["Toy", "", ".toy", "a/b", "a@b", "x" * 201])
def test_a_name_that_could_be_no_key_is_refused(name: str, folder: str) -> None:
    with pytest.raises(InputError, match="must be of lower-case letters"):
        Registry.at(folder, name)


def test_a_damaged_record_is_told_in_a_sentence(folder: str) -> None:
    registry = Registry.at(folder, "toy")
    add(registry, store_sae(folder, "a"))
    for data in (b"{", b"[]", b"{}", b'{"by": "a", "when": "never"}'):
        registry.store.put("versions/00000001.json", data)
        with pytest.raises(ArtifactError, match=r"versions/00000001\.json"):
            registry.version(1)

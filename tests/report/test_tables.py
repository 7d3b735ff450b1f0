from pathlib import Path

import pytest

from tasks.report import details, tables
from tasks.report.contexts import StoredContexts
from tasks.report.inputs import Inputs, read_inputs
from tests.report.stages import Stages


@pytest.fixture(scope="module")
def inputs(stages: Stages) -> Inputs:
    return read_inputs(stages.tokens, stages.activations, stages.sae, stages.scores)


@pytest.fixture(scope="module")
def contexts(inputs: Inputs) -> StoredContexts:
    return StoredContexts(inputs.examples, inputs.n_latents)


def test_a_row_of_the_table_says_what_a_latent_fires_on_and_promotes(inputs: Inputs, contexts: StoredContexts) -> None:
    index = tables.index(inputs.latents, contexts, None, inputs.unit)
    assert [index["strings"][i] for i in index["fires"][7]] == [" Lincoln"]
    assert index["strings"][index["promotes"][7][0]] == " emancipation"
    before, peak, after = index["snippets"][7]
    assert peak == " Lincoln"
    assert len(before) <= tables.BEFORE_CHARACTERS + 1
    assert len(after) <= tables.AFTER_CHARACTERS


def test_a_dead_latent_has_no_snippet(inputs: Inputs, contexts: StoredContexts) -> None:
    index = tables.index(inputs.latents, contexts, None, inputs.unit)
    assert index["snippets"][5] == index["fires"][5] == []
    assert index["columns"]["n_active"][5] == 0


def test_the_text_that_is_searched_is_whole_where_it_fits(inputs: Inputs, contexts: StoredContexts) -> None:
    found = tables.search(inputs.latents, contexts)
    assert found["complete"]
    assert len(found["contexts"][7].splitlines()) == 8
    assert " ".join(contexts.parts(contexts.top_rows(7)[0])).split() == found["contexts"][7].splitlines()[0].split()


def test_in_a_wide_sae_each_latent_gets_an_equal_share_of_searched_text(inputs: Inputs, contexts: StoredContexts) -> None:
    found = tables.search(inputs.latents, contexts, characters=200 * 100)
    assert not found["complete"]
    assert max(map(len, found["contexts"])) == 100


def test_panels_go_to_the_latents_that_fire_most(inputs: Inputs) -> None:
    n_active = inputs.latents["n_active"].to_pylist()
    kept = tables.with_panel(inputs.latents, 10)
    assert kept is not None
    assert sorted(n_active)[-10:] == sorted(n_active[latent] for latent in kept)
    assert tables.with_panel(inputs.latents, 200) is None


def test_a_chunk_holds_the_contexts_in_order_with_text_by_number(inputs: Inputs, contexts: StoredContexts) -> None:
    chunks = dict(details.chunks(inputs.latents, contexts, None))
    assert list(chunks) == ["latents-00000", "latents-00001", "latents-00002", "latents-00003"]
    chunk = chunks["latents-00001"]
    latent = chunk["latents"]["70"]
    assert latent["contexts"]["kind"] == ["top"] * 8 + ["q1", "q1", "q2", "q2", "q3", "q3"]
    assert latent["contexts"]["activation"] == sorted(latent["contexts"]["activation"], reverse=True)
    row = contexts.rows_of(70)[9]
    words = "".join(chunk["strings"][i] for i in latent["contexts"]["tokens"][9])
    assert words == "".join(contexts.parts(row))
    assert latent["contexts"]["values"][9][latent["contexts"]["peak"][9]] == latent["contexts"]["activation"][9]
    assert len(chunk["strings"]) == len(set(chunk["strings"]))


def test_chunks_without_a_panel_are_not_written(inputs: Inputs, contexts: StoredContexts) -> None:
    chunks = dict(details.chunks(inputs.latents, contexts, [3, 130, 131]))
    assert {name: sorted(chunk["latents"]) for name, chunk in chunks.items()} == {
        "latents-00000": ["3"],
        "latents-00002": ["130", "131"],
    }


def test_contexts_may_be_cut_at_either_end_of_a_sequence(labelled: Stages, tmp_path: Path) -> None:
    inputs = read_inputs(None, labelled.activations, labelled.sae, labelled.scores)
    contexts = StoredContexts(inputs.examples, inputs.n_latents)
    before, peak, after = contexts.parts(0)
    assert (before, after) == ("", "")
    assert peak

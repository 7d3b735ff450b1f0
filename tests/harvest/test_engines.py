"""A harvest whose model runs in vLLM, for which a stand-in that writes the same files takes its place."""

import importlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from flows.stages import stages
from tasks.errors import SaemillError
from tasks.harvest.pool.actor import Harvester, HarvestJob
from tasks.harvest.shards import Shard, planned_shards
from tasks.harvest.stage import HarvestStage
from tasks.lm.engines import own_folder
from tasks.lm.engines.errors import EngineError
from tasks.storage.artifacts import identity, read_json
from tasks.storage.objects import open_store
from tests.conftest import ROOT
from tests.harvest.conftest import CONTEXT, places, tiny_config
from tests.harvest.kills import write_config
from tests.kills.processes import told
from tests.turns import kills_a_harvest

STAND_INS = ROOT / "tests/stand_ins"
VERSION = "0.22.0"
HOOKS = ["model.layers.2", "model.layers.0"]


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of /dev/shm."""
    monkeypatch.setattr(own_folder, "_MEMORY", tmp_path / "memory")
    (tmp_path / "memory").mkdir()
    return tmp_path / "memory"


@pytest.fixture
def vllm(tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """The stand-in can be imported; a call tells it what to do wrong."""
    monkeypatch.setattr(sys, "path", [str(STAND_INS), *sys.path])
    monkeypatch.setenv("VLLM_FAULT", str(tmp_path / "fault"))
    importlib.invalidate_caches()
    (tmp_path / "fault").touch()
    yield (tmp_path / "fault").write_text
    sys.modules.pop("vllm", None)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random Llama each of whose layers turns the residual stream by much."""
    folder = str(tmp_path_factory.mktemp("llama"))
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "vocab_size": 50}
    config = LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, initializer_range=0.3)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def job(llama: str, tokens_directory: Callable[[str], str], tmp_path: Path) -> HarvestJob:
    config = tiny_config(llama, str(tmp_path))
    return HarvestJob(
        settings=config.harvest.model_copy(update={"hooks": HOOKS, "batch_sequences": None}),
        model=config.model.model_copy(update={"engine": "vllm", "truncate": "off"}),
        tokens=tokens_directory(str(tmp_path)),
        out=places(str(tmp_path))[0],
        context_length=CONTEXT,
        special_token_ids=[0],
        gpus=0,
        engine_version=VERSION,
    )


def in_transformers(job: HarvestJob) -> HarvestJob:
    model = job.model.model_copy(update={"engine": "transformers"})
    return replace(job, model=model, engine_version=None, out=job.out.replace("/shards/", "/others/"))


def some_shards(job: HarvestJob) -> list[Shard]:
    return planned_shards(job.tokens, job.settings.shard_tokens)[:4]  # two of each split


def harvested(job: HarvestJob) -> None:
    worker = Harvester(job)
    for shard in some_shards(job):
        assert worker.harvest(shard, 1).computed


def tables(uri: str) -> dict[str, list[object]]:
    """Columns of each file of rows, by where it lies but for the hash of its bytes."""
    store, found = open_store(uri), {}
    for info in store.list():
        if info.key.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(store.get(info.key)))
            rest = [table[name].to_numpy() for name in ("token_id", "sequence", "position")]
            raw = b"".join(table["activation"].to_pylist())
            found[info.key.rpartition("-")[0]] = [np.frombuffer(raw, "<f4").reshape(-1, 16), *rest]
    return found


@pytest.mark.parametrize("fault", ["", "no lock"])
def test_its_rows_are_those_of_transformers(job: HarvestJob, vllm: Callable[[str], None], memory: Path, fault: str) -> None:
    vllm(fault)
    harvested(job)
    harvested(in_transformers(job))
    found, expected = tables(job.out), tables(in_transformers(job).out)
    assert found.keys() == expected.keys()
    assert len(found) == 2 * len(some_shards(job))
    for key, columns in expected.items():
        assert found[key][0] == pytest.approx(columns[0], rel=1e-4, abs=1e-5), key
        assert all(np.array_equal(a, b) for a, b in zip(found[key][1:], columns[1:], strict=True)), key
    assert list(memory.iterdir()) == []


def test_what_it_was_is_told_of_each_shard(job: HarvestJob, vllm: Callable[[str], None]) -> None:
    worker = Harvester(job)
    outcome = worker.harvest(some_shards(job)[0], 1)
    assert (outcome.attention, outcome.batch_sequences) == ("vllm", 4)  # a whole shard at once
    assert list(outcome.parity) == HOOKS
    for parity in outcome.parity.values():
        assert parity.tokens == 46 * CONTEXT  # all that there are
        assert (parity.cosine, parity.least_cosine, parity.norm_error) == pytest.approx((1, 1, 0), abs=1e-5)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("off by one", "vLLM 0.22.0 gives other activations than transformers at model.layers.2: of 368 tokens"),
        ("scaled", "at model.layers.2: of 368 tokens 99% have a cosine of 1.00000 or more, .* and 95% a norm within 2.00%"),
        ("unknown model", "vLLM 0.22.0 cannot run model 'llama.*': Model does not support EAGLE3 interface"),
        ("another sequence", "vLLM wrote hidden states"),
        ("disk full", "GiB left at"),
    ],
)
def test_what_it_does_wrong_is_told_before_anything_is_stored(
    job: HarvestJob, vllm: Callable[[str], None], memory: Path, fault: str, said: str
) -> None:
    vllm(fault)
    worker = Harvester(job)
    with pytest.raises(EngineError, match=said):
        worker.progress()
    with pytest.raises(EngineError, match=said):
        worker.harvest(some_shards(job)[0], 1)
    assert list(open_store(job.out).list()) == []
    assert list(memory.iterdir()) == []


def test_a_shard_that_it_fails_at_later_is_not_stored(job: HarvestJob, vllm: Callable[[str], None], memory: Path) -> None:
    first, second = some_shards(job)[:2]
    worker = Harvester(job)
    vllm("disk full")
    with pytest.raises(SaemillError, match="GiB left at"):
        worker.harvest(first, 1)
    assert list(open_store(job.out).list()) == []
    assert list(memory.iterdir()) == []
    vllm("")
    assert worker.harvest(first, 2).computed
    assert worker.harvest(second, 1).computed


@pytest.mark.usefixtures("vllm")
def test_a_machine_with_another_version_is_refused(job: HarvestJob) -> None:
    with pytest.raises(EngineError, match=r"has vllm 0\.22\.0, but the harvest was begun with 0\.19\.0"):
        Harvester(replace(job, engine_version="0.19.0")).progress()


def stage_of(llama: str, storage: Path, engine: str) -> HarvestStage:
    config = tiny_config(llama, str(storage))
    settings = config.model_copy(update={"model": config.model.model_copy(update={"engine": engine})})
    (found,) = (stage for stage in stages(settings) if isinstance(stage, HarvestStage))
    return found


@pytest.mark.usefixtures("vllm")
def test_the_engine_and_its_version_are_in_the_address(llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, other = (stage_of(llama, tmp_path, engine) for engine in ("transformers", "vllm"))
    assert other.recipe().settings["model"] == {
        **plain.recipe().settings["model"],
        "engine": "vllm",
        "engine_version": VERSION,
    }
    assert "engine" not in plain.recipe().settings["model"]
    before = other.places(str(tmp_path), "x")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.23.0")
    after = other.places(str(tmp_path), "x")
    assert all(before[result] != after[result] for result in ("shards", "activations"))


@pytest.mark.usefixtures("vllm")
def test_a_hook_that_it_lacks_is_refused_before_anything_is_begun(llama: str, tmp_path: Path) -> None:
    plain, other = (stage_of(llama, tmp_path, engine) for engine in ("transformers", "vllm"))
    out = f"{tmp_path}/activations/x-{'b' * 12}"
    assert plain.check_inputs(out, {}) == {"model.layers.0": 16, "model.layers.1.mlp:input": 16}
    with pytest.raises(EngineError, match=r"'model\.layers\.1\.mlp:input' is no output of a whole block"):
        other.check_inputs(out, {})


@kills_a_harvest  # it costs as much
@pytest.mark.ray
def test_a_command_ends_with_exit_code_2_at_another_layer_and_harvests_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STAND_INS), str(ROOT)]))
    monkeypatch.setenv("VLLM_FAULT", str(tmp_path / "fault"))
    found = told("tests.harvest.vllm_commands", write_config(tmp_path), tmp_path / "runs", tmp_path / "fault")
    assert found["refused"] == 2
    assert "vLLM 0.22.0 gives other activations than transformers at model.layers.1" in " ".join(found["said"].split())
    assert "Traceback" not in found["said"]
    assert found["done"] == 0
    out = found["printed"]["activations"]
    manifest, run = read_json(out, "manifest.json") or {}, read_json(out, "run.json") or {}
    # Of actors that were killed while they compared, as the others were refused or had no shard left.
    shutil.rmtree(f"/dev/shm/saemill-{os.getuid()}-{identity(manifest['shards'])}", ignore_errors=True)
    assert manifest["recipe"]["model"] == {"dtype": "float32", "engine": "vllm", "engine_version": VERSION}
    assert run["attention"] == ["vllm"]
    (parity,) = run["parity"].values()
    assert parity == pytest.approx({"tokens": 2048, "cosine": 1, "least_cosine": 1, "norm_error": 0}, abs=1e-4)

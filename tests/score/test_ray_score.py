import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from flows.config import PipelineConfig, parse_config
from tasks.activations.writer import Rows
from tasks.errors import ArtifactError, InputError
from tasks.hook_roles import HookRoles
from tasks.lm.config import ModelConfig
from tasks.lm.hooks import capture
from tasks.lm.load import load_model
from tasks.progress import Progress, silent
from tasks.ray_config import RayConfig
from tasks.sae import save
from tasks.score import ray_score, work
from tasks.score.config import ScoreConfig
from tasks.score.device_survey import survey_on_device
from tasks.score.job import ScoreJob
from tasks.score.work import Surveyed
from tasks.storage.artifacts import read_manifest, write_manifest
from tasks.storage.objects import open_store
from tests.composed import ingest, score
from tests.scarce_memory import on_a_cpu, on_a_gpu
from tests.score.conftest import D_IN, D_SAE, MakeSAE, StoreRows

CONTEXT, VOCABULARY, HOOK = 12, 64, "model.layers.0"
TRAIN, HELD_OUT = 20, 30

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("llama"))
    torch.manual_seed(0)
    sizes = {"hidden_size": D_IN, "intermediate_size": 16, "num_hidden_layers": 2, "vocab_size": VOCABULARY}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads, initializer_range=0.5)).save_pretrained(folder)
    return folder


def write_tokens(root: Path) -> tuple[str, np.ndarray]:
    """A tokens directory of random printable characters, one document per two sequences."""
    uri = str(root / f"tokens-{'a' * 12}")
    n = TRAIN + HELD_OUT
    token_ids = np.random.default_rng(0).integers(0, VOCABULARY, (n, CONTEXT), dtype=np.int32)
    document = np.repeat(np.arange(n) // 2, CONTEXT).reshape(n, CONTEXT).astype(np.int32)
    lists = {
        name: pa.array(list(rows), pa.list_(pa.int32())) for name, rows in (("token_ids", token_ids), ("document", document))
    }
    split = ["train"] * TRAIN + ["eval"] * HELD_OUT
    put_table(uri, "sequences.parquet", pa.table({"sequence": np.arange(n), "split": split, **lists}))
    titles = [f"document {i}" for i in range(n // 2)]
    put_table(uri, "documents.parquet", pa.table({"document": pa.array(range(n // 2), pa.int32()), "title": titles}))
    vocabulary = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet())[:VOCABULARY])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    open_store(uri).put("tokenizer/tokenizer.json", tokenizer.to_str().encode())
    write_manifest(uri, {"n_sequences": {"train": TRAIN, "eval": HELD_OUT}, "context_length": CONTEXT})
    return uri, token_ids


def put_table(uri: str, key: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=16)
    open_store(uri).put(key, sink.getvalue())


def harvested(model: Any, token_ids: np.ndarray, first: int) -> Rows:
    """All but the first position of sequences."""
    found = capture(model, [HOOK], torch.from_numpy(token_ids.astype(np.int64)))[HOOK]
    sequence, position = np.divmod(np.arange(token_ids.size), CONTEXT)
    kept = position > 0
    activation = found.flatten(0, 1).numpy()[kept]
    return Rows(activation, token_ids.ravel()[kept], sequence[kept] + first, position[kept].astype(np.int32))


Run = Callable[..., str]


@pytest.fixture
def score_stored(model_folder: str, make_sae: MakeSAE, store_rows: StoreRows, tmp_path: Path) -> Run:
    """Score a random SAE on a random model's text, by whatever Ray there is; returns the URI of the scores."""
    model = load_model(ModelConfig(name=model_folder, dtype="float32"))
    tokens, token_ids = write_tokens(tmp_path)
    train = harvested(model, token_ids[:TRAIN], 0)
    held_out = [harvested(model, token_ids[a : a + 15], a) for a in range(TRAIN, TRAIN + HELD_OUT, 15)]
    activations = store_rows([train], held_out, hook=HOOK)
    save(make_sae(), str(tmp_path / "sae"), {})

    def score_it(name: str, listener: Any = silent, **settings: Any) -> str:
        out = str(tmp_path / name)
        score(config(model_folder, **settings), tokens, activations, str(tmp_path / "sae"), out, listener)
        return out

    return score_it


@pytest.fixture
def run(score_stored: Run, ray_cluster: None) -> Run:
    """The same on a cluster."""
    return score_stored


def config(model_folder: str, **settings: Any) -> PipelineConfig:
    return parse_config(
        {
            "text": {"source": "unused.txt"},
            "model": {"name": model_folder, "dtype": "float32"},
            "harvest": {"hooks": [HOOK]},
            "score": {
                "context_tokens": 3,
                "splice_tokens": 20 * CONTEXT,
                "top_logits": 4,
                "neighbours": 2,
                "tasks_in_flight": 2,
                **settings,
            },
        }
    )


def summary_of(uri: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(open_store(uri).get("summary.json"))
    return found


def read(uri: str, key: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(open_store(uri).get(key))).to_pylist()
    return rows


def test_scores_have_every_table_and_figure(run: Run) -> None:
    heard: list[Progress] = []
    out = run("scores", heard.append)
    summary, latents, examples = summary_of(out), read(out, "latents.parquet"), read(out, "examples.parquet")
    assert summary["tokens"] == HELD_OUT * (CONTEXT - 1)
    assert 0 < summary["fvu"] < 100
    assert summary["ce"]["tokens"] == 20 * (CONTEXT - 1)
    assert summary["ce_recovered"] == summary["ce"]["recovered_vs_mean"]
    assert set(summary["baselines"]) == {"mean", "pca", "random_directions", "training_rows", "sae_same_rows"}
    assert summary["baselines"]["sae_same_rows"]["fvu"] == pytest.approx(summary["fvu"], rel=1e-5)
    assert [row["latent"] for row in latents] == list(range(D_SAE))
    for row in latents:
        assert sum(row["histogram"]) == row["n_active"]
        assert (len(row["promoted"]), len(row["suppressed"]), len(row["neighbours"])) == (4, 4, 2)
    shown = {(row["latent"], row["sequence"], row["position"]) for row in examples}
    assert len(shown) == len(examples)
    assert {row["kind"] for row in examples} == {"top", "q1", "q2", "q3"}
    assert heard[-1].done == heard[-1].total
    manifest = read_manifest(out)
    assert manifest is not None
    assert manifest["stage"] == "scores"


def test_tops_agree_with_the_table_of_latents_and_lie_in_their_text(run: Run, tmp_path: Path) -> None:
    out = run("scores")
    strongest = {row["latent"]: row["max_activation"] for row in read(out, "latents.parquet")}
    token_ids = np.stack(pq.read_table(tmp_path / f"tokens-{'a' * 12}" / "sequences.parquet")["token_ids"].to_pylist())
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    for row in read(out, "examples.parquet"):
        if row["kind"] == "top" and row["rank"] == 0:
            assert row["activation"] == strongest[row["latent"]]
        assert row["title"] == f"document {row['sequence'] // 2}"
        start = row["position"] - row["peak"]
        expected = token_ids[row["sequence"], start : start + len(row["tokens"])]
        assert row["tokens"] == [symbols[i] for i in expected]


def test_the_same_bytes_come_from_any_number_of_tasks_at_once(run: Run) -> None:
    one, four = run("one", tasks_in_flight=1), run("four", tasks_in_flight=4)
    for key in ("summary.json", "latents.parquet", "examples.parquet", "manifest.json"):
        assert open_store(one).get(key) == open_store(four).get(key), key


@pytest.mark.s3
def test_on_s3_the_same_bytes_are_read_and_written(run: Run, s3: str, model_folder: str, tmp_path: Path) -> None:
    local = run("scores")
    names = [f"tokens-{'a' * 12}", f"activations-{'c' * 12}", "sae"]
    for name in names:
        for found in open_store(str(tmp_path / name)).list():
            open_store(f"{s3}/score/{name}").put(found.key, open_store(str(tmp_path / name)).get(found.key))
    remote = f"{s3}/score/scores"
    score(config(model_folder), *(f"{s3}/score/{name}" for name in names), remote, silent)
    for key in ("summary.json", "latents.parquet", "examples.parquet"):
        assert open_store(local).get(key) == open_store(remote).get(key), key


def test_a_finished_directory_is_left_alone(run: Run, tmp_path: Path) -> None:
    out = run("scores")
    (tmp_path / "scores" / "summary.json").unlink()
    assert run("scores") == out
    assert not (tmp_path / "scores" / "summary.json").exists()


def test_max_tokens_limits_what_is_scored(run: Run) -> None:
    out = run("scores", max_tokens=100)
    assert summary_of(out)["tokens"] == 100
    assert sum(row["n_active"] for row in read(out, "latents.parquet")) == 300


def test_an_sae_of_another_width_is_refused(run: Run, make_sae: MakeSAE, tmp_path: Path) -> None:
    save(make_sae(d_in=D_IN + 1), str(tmp_path / "sae"), {})
    with pytest.raises(ArtifactError, match="takes d_in 9"):
        run("scores")


@pytest.mark.parametrize("arch", ["l1", "dense"])
def test_own_activations_with_labels_need_no_model(arch: str, make_sae: MakeSAE, tmp_path: Path, ray_cluster: None) -> None:
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).standard_normal((60, D_IN)).astype(np.float32))
    (tmp_path / "labels.txt").write_text("".join(f"label {i % 5}\n" for i in range(60)))
    source = {"source": str(tmp_path / "rows.npy"), "labels": str(tmp_path / "labels.txt"), "eval_fraction": 0}
    own = parse_config({"activations": source})
    activations, sae, out = (str(tmp_path / name) for name in ("own-bbbbbbbbbbbb", "sae", "scores"))
    ingest(own, activations, silent)
    save(make_sae(arch), sae, {})
    score(own, None, activations, sae, out, silent)
    summary, latents = summary_of(out), read(out, "latents.parquet")
    assert summary["ce"] is None
    assert summary["eval_is_train"] is True
    assert summary["tokens"] == 60
    assert latents[0]["promoted"] == []
    assert len(latents[0]["neighbours"]) == 5
    heat = read(out, "heatmap.parquet")
    assert list(dict.fromkeys(row["label"] for row in heat)) == [f"label {i}" for i in range(5)]
    example = read(out, "examples.parquet")[0]
    assert example["tokens"] == [example["label"]]


class InThisProcess:
    """In place of Ray's tasks: work is done as it is submitted."""

    def __init__(self, limit: int | None, total: int, listener: Any, gpus: float) -> None:
        self.found: list[Any] = []

    def submit(self, function: Callable[..., Any], *arguments: Any) -> int:
        self.found.append(function(*arguments))
        return len(self.found) - 1

    def results(self, numbers: list[int]) -> Iterator[Any]:
        return (self.found[number] for number in numbers)

    def stop(self) -> None:
        pass


@pytest.fixture
def run_with_gpus(score_stored: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], tuple[str, list[int]]]:
    """Score as on a cluster with so many GPUs, each of which is this CPU; gives the URI, and the pieces of each task."""
    monkeypatch.setattr(ray_score, "connect", lambda cluster: None)
    monkeypatch.setattr(ray_score, "_Pool", InThisProcess)
    monkeypatch.setattr(ScoreJob, "device", "cpu")

    def run(gpus: int) -> tuple[str, list[int]]:
        tasks: list[int] = []

        def watched(*arguments: Any) -> Any:
            found = survey_on_device(*arguments)
            tasks.append(len(found))
            return found

        monkeypatch.setattr(work, "survey_on_device", watched)
        monkeypatch.setattr(ray_score, "cluster_gpus", lambda: float(gpus))
        return score_stored(f"{gpus} GPUs"), tasks

    return run


def test_scores_of_the_code_for_gpus_are_those_of_the_code_for_cpus(
    run_with_gpus: Callable[[int], tuple[str, list[int]]],
) -> None:
    (plain, no_tasks), (by_gpu, tasks) = run_with_gpus(0), run_with_gpus(1)
    assert (no_tasks, tasks) == ([], [2])
    assert numbers(summary_of(by_gpu)) == pytest.approx(numbers(summary_of(plain)), rel=1e-9)
    assert read(by_gpu, "examples.parquet") == read(plain, "examples.parquet")
    latents = [read(uri, "latents.parquet") for uri in (by_gpu, plain)]
    means = [[row.pop("mean_activation") for row in rows] for rows in latents]
    assert means[0] == pytest.approx(means[1], rel=1e-12)
    assert latents[0] == latents[1]


def numbers(found: Any, name: str = "") -> dict[str, float]:
    """All numbers of nested dictionaries and lists, by where they stand."""
    if isinstance(found, int | float):
        return {name: float(found)}
    parts = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return {key: value for part, inside in parts for key, value in numbers(inside, f"{name}/{part}").items()}


def test_the_same_bytes_come_from_any_number_of_gpus(run_with_gpus: Callable[[int], tuple[str, list[int]]]) -> None:
    (one, all_pieces), (three, pieces) = run_with_gpus(1), run_with_gpus(3)
    assert (all_pieces, pieces) == ([2], [1, 1])
    for key in ("summary.json", "latents.parquet", "examples.parquet", "manifest.json"):
        assert open_store(one).get(key) == open_store(three).get(key), key


def test_saes_are_compared_by_the_code_for_gpus_as_by_that_for_cpus(
    run_with_gpus: Callable[[int], tuple[str, list[int]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with_gpus(0)  # stores what is compared
    sae, activations = str(tmp_path / "sae"), str(tmp_path / f"activations-{'c' * 12}")
    job = ScoreJob(settings=ScoreConfig(), hooks=HookRoles.of_sae(HOOK), sae=sae, activations=activations)

    def compared(gpus: float) -> tuple[list[Any], list[Any]]:
        monkeypatch.setattr(ray_score, "cluster_gpus", lambda: gpus)
        return ray_score.compare([job, job], RayConfig(), [(sae, sae)], silent)

    (plain, pairs), (by_gpu, the_same_pairs) = compared(0.0), compared(4.0)
    for ours, theirs in zip(by_gpu, plain, strict=True):
        assert asdict(ours) == pytest.approx(asdict(theirs), rel=1e-9)
    assert pairs == the_same_pairs
    assert pairs[0].shared == 1


def test_run_json_tells_what_looked_at_the_rows(run_with_gpus: Callable[[int], tuple[str, list[int]]]) -> None:
    out, _ = run_with_gpus(0)
    assert json.loads(open_store(out).get("run.json"))["devices"] == {"cpu": None}


def test_the_most_memory_of_each_device_is_told() -> None:
    devices: dict[str, int | None] = {}
    parts = [Surveyed([], "H200", 5), Surveyed([], "cpu", None), Surveyed([], "H200", 9), Surveyed([], "H200", 7)]
    assert list(ray_score._surveys(iter(parts), devices)) == []
    assert devices == {"H200": 9, "cpu": None}


@pytest.mark.parametrize(
    "there, wanted, expected", [(0, None, 0), (2, None, 1), (2, 0, 0), (2, 0.25, 0.25), (0, 0, 0), (0.5, 0.5, 0.5)]
)
def test_a_task_has_a_gpu_where_the_cluster_has_one(
    there: float, wanted: float | None, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_score, "cluster_gpus", lambda: there)
    gpus = ray_score._gpus_per_task(ScoreConfig(gpus_per_task=wanted))
    assert gpus == expected
    job = ScoreJob(settings=ScoreConfig(), hooks=HookRoles.of_sae(HOOK), sae="s", activations="a", gpus=gpus)
    assert job.device == ("cuda" if expected else "cpu")


def test_gpus_that_are_not_there_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_score, "cluster_gpus", lambda: 0.0)
    with pytest.raises(InputError, match=r"score\.gpus_per_task is 1 but the Ray cluster has 0 GPUs"):
        ray_score._gpus_per_task(ScoreConfig(gpus_per_task=1))
    with pytest.raises(ValueError, match="less than or equal to 1"):
        ScoreConfig(gpus_per_task=2)


@pytest.mark.parametrize(
    "gpus, rivals, expected",
    [
        (0.0, 1, [[0], [1], [2], [3], [4]]),
        (1.0, 1, [[0, 1], [2, 3, 4]]),
        (0.5, 1, [[0], [1], [2], [3, 4]]),
        (0.5, 3, [[0, 1, 2, 3, 4]]),
        (0.6, 1, [[0, 1], [2, 3, 4]]),
        (0.1, 1, [[0], [1], [2], [3], [4]]),
    ],
)
def test_work_is_shared_so_that_all_gpus_have_some_at_once(
    gpus: float, rivals: int, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_score, "cluster_gpus", lambda: 2.0)
    assert ray_score._shares(range(5), gpus, rivals) == expected
    assert ray_score._shares([], gpus, rivals) == []


@pytest.mark.parametrize("error", [on_a_gpu(1), on_a_cpu(1), MemoryError()], ids=["GPU", "CPU", "Python"])
def test_where_memory_ends_a_task_says_so_in_a_sentence(error: Exception) -> None:
    def work(n: int) -> None:
        raise error

    with pytest.raises(InputError, match=r"no memory left for a scoring task \(work\)\. On GPUs, raise score\.gpus"):
        ray_score._one_thread(work, 1)


def test_other_errors_of_a_task_stay_as_they_are() -> None:
    def work() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        ray_score._one_thread(work)

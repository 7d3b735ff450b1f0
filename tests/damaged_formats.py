"""Every format that is read: how a whole file of it comes to be, and what reads it for a user."""

import contextlib
import gzip
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from flows.config import PipelineConfig, parse_config
from flows.hooks import listed
from tasks.activations.reader import Split
from tasks.encode.encode import encode_activations
from tasks.errors import SaemillError
from tasks.harvest.config import ActivationsConfig
from tasks.harvest.export import export_activations
from tasks.harvest.gc import gc
from tasks.harvest.repair import take_out
from tasks.harvest.sources import open_source, source_identity
from tasks.harvest.verify import verify
from tasks.interchange.portable import Portable
from tasks.interchange.transfer import export_sae, import_sae
from tasks.lm.config import ModelConfig
from tasks.lm.load import load_model, load_tokenizer
from tasks.progress import silent
from tasks.sae import SAEConfig, SparseAutoencoder, load, save
from tasks.sae.belonging import Belonging
from tasks.sae.mesh import OneProcess
from tasks.sae.scaling import Weights
from tasks.storage.objects import open_store
from tasks.text.config import TextConfig
from tasks.text.corpus import Corpus, check_corpus, corpus_identity
from tasks.text.stored import read_hashes, read_sequences
from tasks.train.checkpoint import read_run
from tasks.train.worker import Worker
from tests.composed import ingest, run_settings, tokenize
from tests.damaged_files import Format

D_IN, D_SAE = 6, 24
ROWS = np.random.default_rng(0).normal(size=(300, D_IN)).astype(np.float32)
_SOME = 2_000
LAKE, SAE = f"activations/a-{'d' * 12}", "sae"


def all_refused(*calls: Callable[[], object]) -> None:
    """Each is made, whatever those before it said; the first sentence comes out at the end."""
    sentences = []
    for call in calls:
        try:
            call()
        except SaemillError as error:
            sentences.append(error)
    if sentences:
        raise sentences[0]


def own(source: str, **more: Any) -> Callable[[Path], object]:
    def read(folder: Path) -> None:
        config = ActivationsConfig(source=str(folder / source), **more)
        all_refused(lambda: source_identity(config), lambda: list(open_source(config).chunks(64)))

    return read


def make_list_column(folder: Path) -> None:
    labels = pa.array([f"row {n}" for n in range(len(ROWS))])
    table = pa.table({"activation": pa.array(list(ROWS), pa.list_(pa.float32())), "label": labels})
    pq.write_table(table, folder / "a.parquet", row_group_size=100)


def make_fixed_lists(folder: Path) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), D_IN)
    pq.write_table(pa.table({"activation": column}), folder / "a.parquet", compression="zstd", use_dictionary=False)


def corpus(source: str, **more: Any) -> Callable[[Path], object]:
    def read(folder: Path) -> None:
        config = TextConfig(source=str(folder / source), **more)
        all_refused(
            lambda: corpus_identity(config),
            lambda: check_corpus(config),
            lambda: list(itertools.islice(Corpus(config).documents(), _SOME)),
        )

    return read


LINES = "".join(json.dumps({"text": f"document {n} " * 9, "year": n}) + "\n" for n in range(200)).encode()
TABLE = pa.table({"text": [f"document {n} " * 9 for n in range(200)], "year": list(range(200))})


def writes(name: str, data: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return make


def make_model(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<eos>": 0, "<unk>": 1, "a": 2, "b": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>").save_pretrained(folder)


def read_model(folder: Path) -> None:
    config = ModelConfig(name=str(folder), dtype="float32")
    all_refused(lambda: listed(str(folder), ""), lambda: load_tokenizer(config), lambda: load_model(config))


def make_gguf(folder: Path) -> None:
    writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama")
    writer.add_token_list(["<unk>", "a", "b"])
    writer.add_tokenizer_model("llama")
    writer.add_block_count(1)
    writer.add_context_length(16)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(32)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("token_embd.weight", np.zeros((3, 16), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def settings(folder: Path) -> PipelineConfig:
    train = {"tokens": 320, "batch_tokens": 32, "lanes": 4, "workers": 1, "precision": "fp32", "lr": 0.01}
    own_rows = {"source": str(folder / "rows.npy"), "eval_fraction": 0.1}
    return parse_config(
        {
            "storage": str(folder),
            "activations": own_rows,
            "harvest": {"shard_tokens": 100, "row_group_rows": 32},
            "sae": {"d_sae": D_SAE, "k": 3},
            "train": train,
        }
    )


def make_lake(folder: Path) -> None:
    np.save(folder / "rows.npy", ROWS)
    ingest(settings(folder), str(folder / LAKE), silent)
    save(module(), str(folder / SAE), {"hook": "source"})


def read_lake(folder: Path) -> None:
    uri = str(folder / LAKE)
    all_refused(
        lambda: verify(uri, silent),
        lambda: gc(uri, dry_run=True),
        lambda: read_rows(uri),
        lambda: export_activations(uri, str(folder / "out"), "list", silent),
        lambda: encode_activations(str(folder / SAE), uri, str(folder / "codes"), silent),
        lambda: list(open_source(ActivationsConfig(source=uri)).chunks(64)),
        lambda: take_out(uri, silent),
        lambda: ingest(settings(folder), uri, silent),
    )
    outside = [path for path in Path("/etc").glob("*.parquet")]
    assert not outside


def read_rows(uri: str) -> None:
    for split in ("train", "eval"):
        rows = Split(uri, "source", split)
        for unit in rows.units():
            rows.activations(unit)
        for index in range(len(rows.shards)):
            rows.shard(index)


def module(arch: str = "batchtopk", **belongs: Any) -> SparseAutoencoder:
    draw = torch.Generator().manual_seed(0)
    shapes = ((D_IN, D_SAE), (D_SAE,), (D_SAE, D_IN), (D_IN,))
    tensors = [torch.randn(*shape, generator=draw) for shape in shapes]
    extra = {"threshold": torch.full((D_SAE,), 0.5)} if arch == "batchtopk" else {}
    belonging = Belonging(**{"model": "some/model", "hooks": ("model.layers.3",), **belongs})
    return SparseAutoencoder(SAEConfig(arch=arch, d_in=D_IN, d_sae=D_SAE, k=3), Weights(*tensors, extra), belonging)


def make_sae(folder: Path) -> None:
    save(module(), str(folder), {"hook": "model.layers.3", "model": "some/model", "training": {"tokens": 1000}})


def read_sae(folder: Path) -> None:
    sae = load(str(folder))
    assert repr(sae)
    sae.decode(sae.encode(torch.zeros(2, 3, D_IN)))


def make_import(name: str, arch: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from tasks.interchange.formats import open_format

        places = {"hooks": ("model.layers.3.mlp:input",), "target_hook": "model.layers.3.mlp"}
        sae = module(arch, **(places if name == "circuit-tracer" else {}))
        for key, data in open_format(name).files(Portable(sae.config, sae.weights, sae.belonging)).items():  # type: ignore[arg-type]
            (folder / key).write_bytes(data)

    return make


def read_import(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> None:
        import_sae(str(folder), name, str(folder.parent / f"{folder.name}-imported"))  # type: ignore[arg-type]
        imported = str(folder.parent / f"{folder.name}-imported")
        load(imported).encode(torch.zeros(2, D_IN))
        with contextlib.suppress(SaemillError):  # what came from one library may have no place in another's files
            export_sae(imported, "saelens", str(folder.parent / f"{folder.name}-exported"))

    return read


def make_tokens(folder: Path) -> None:
    (folder / "model").mkdir()
    make_model(folder / "model")
    (folder / "text.jsonl").write_bytes("".join(json.dumps({"text": "a b " * (20 + n)}) + "\n" for n in range(60)).encode())
    tokenize(tokens_settings(folder), str(folder / f"tokens/t-{'e' * 12}"), silent)


def tokens_settings(folder: Path) -> PipelineConfig:
    text = {"source": str(folder / "text.jsonl"), "context_length": 8}
    return parse_config({"storage": str(folder), "model": {"name": str(folder / "model")}, "text": text})


def read_tokens(folder: Path) -> None:
    from tasks.harvest.shards import planned_shards

    uri = str(folder / f"tokens/t-{'e' * 12}")
    all_refused(
        lambda: read_sequences(uri, 0, 4),
        lambda: read_sequences(uri, 0, 4, "document"),
        lambda: read_hashes(uri),
        lambda: planned_shards(uri, 64),
        lambda: tokenize(tokens_settings(folder), uri, silent),
    )


def make_checkpoint(folder: Path) -> None:
    from tasks.train.checkpoint import write_run

    make_lake(folder)
    found = Worker(run_settings(settings(folder)), str(folder / LAKE), str(folder / "saes"), OneProcess()).train(
        on_checkpoint=lambda _: None
    )
    write_run(found, open_store(str(folder)), "checkpoints/", 1)


def read_checkpoint(folder: Path) -> None:
    worker = Worker(run_settings(settings(folder)), str(folder / LAKE), str(folder / "saes"), OneProcess())
    store = open_store(str(folder))
    read_run(store, "checkpoints/step-000000000010", worker.plan)


FORMATS = {
    "parquet-lists": Format(make_list_column, "a.parquet", own("a.parquet", label_column="label")),
    "parquet-fixed": Format(make_fixed_lists, "a.parquet", own(".")),
    "npy": Format(lambda folder: np.save(folder / "a.npy", ROWS), "a.npy", own("a.npy")),
    "safetensors": Format(
        lambda folder: save_file({"x": torch.from_numpy(ROWS).bfloat16()}, folder / "a.safetensors"),
        "a.safetensors",
        own("a.safetensors"),
    ),
    "parquet-text": Format(
        lambda folder: pq.write_table(TABLE, folder / "a.parquet", row_group_size=50),
        "a.parquet",
        corpus("a.parquet", title_columns=["year"]),
    ),
    "jsonl": Format(writes("a.jsonl", LINES), "a.jsonl", corpus("a.jsonl", title_columns=["year"])),
    "jsonl.gz": Format(writes("a.jsonl.gz", gzip.compress(LINES)), "a.jsonl.gz", corpus("a.jsonl.gz")),
    "jsonl.zst": Format(
        writes("a.jsonl.zst", pa.compress(LINES, "zstd", asbytes=True)), "a.jsonl.zst", corpus("a.jsonl.zst")
    ),
    "txt": Format(writes("a.txt", LINES), "a.txt", corpus(".")),
    "model-config": Format(make_model, "config.json", read_model),
    "model-tokenizer": Format(make_model, "tokenizer.json", read_model),
    "model-tokenizer-config": Format(make_model, "tokenizer_config.json", read_model),
    "model-weights": Format(make_model, "model.safetensors", read_model),
    "gguf": Format(make_gguf, "tiny.gguf", lambda folder: listed(str(folder / "tiny.gguf"), "")),
    "manifest": Format(make_lake, f"{LAKE}/manifest.json", read_lake),
    "commit": Format(make_lake, f"{LAKE}/commits/train-00000.json", read_lake),
    "shard": Format(make_lake, f"{LAKE}/source/train/00000-*.parquet", read_lake),
    "sae-config": Format(make_sae, "config.json", read_sae),
    "sae-weights": Format(make_sae, "sae.safetensors", read_sae),
    "saelens-config": Format(make_import("saelens", "batchtopk"), "cfg.json", read_import("saelens")),
    "saelens-weights": Format(make_import("saelens", "topk"), "sae_weights.safetensors", read_import("saelens")),
    "sparsify-config": Format(make_import("sparsify", "topk"), "cfg.json", read_import("sparsify")),
    "sparsify-weights": Format(make_import("sparsify", "topk"), "sae.safetensors", read_import("sparsify")),
    "dictionary-config": Format(
        make_import("dictionary_learning", "batchtopk"), "config.json", read_import("dictionary_learning")
    ),
    "dictionary-weights": Format(make_import("dictionary_learning", "topk"), "ae.pt", read_import("dictionary_learning")),
    "circuit-config": Format(make_import("circuit-tracer", "batchtopk"), "config.yaml", read_import("circuit-tracer")),
    "circuit-weights": Format(make_import("circuit-tracer", "l1"), "layer_3.safetensors", read_import("circuit-tracer")),
    "tokens-manifest": Format(make_tokens, f"tokens/t-{'e' * 12}/manifest.json", read_tokens),
    "tokens-sequences": Format(make_tokens, f"tokens/t-{'e' * 12}/sequences.parquet", read_tokens),
    "checkpoint-facts": Format(make_checkpoint, "checkpoints/*/state.json", read_checkpoint),
    "checkpoint-tensors": Format(make_checkpoint, "checkpoints/*/state.safetensors", read_checkpoint),
}

"""Transcoders and crosscoders, scored as the pipeline does it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from flows.config import PipelineConfig, parse_config
from tasks.activations.multi_hook import JoinedSplit
from tasks.activations.writer import Rows
from tasks.errors import ArtifactError
from tasks.lm.config import ModelConfig
from tasks.lm.hooks import capture
from tasks.lm.load import load_model
from tasks.progress import silent
from tasks.sae import SparseAutoencoder, save
from tasks.storage.objects import open_store
from tests.composed import score
from tests.score.conftest import D_IN, D_SAE, MakeSAE
from tests.score.test_ray_score import CONTEXT, HELD_OUT, TRAIN, VOCABULARY, write_tokens
from tests.stored import store_hooks

INPUT, OUTPUT = "model.layers.1.mlp:input", "model.layers.1.mlp"
LAYERS = ["model.layers.0", "model.layers.1"]
HOOKS = [*LAYERS, INPUT, OUTPUT]

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("llama"))
    torch.manual_seed(0)
    sizes = {"hidden_size": D_IN, "intermediate_size": 16, "num_hidden_layers": 3, "vocab_size": VOCABULARY}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads, initializer_range=0.5)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def inputs(model_folder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Tokens of random text, and what the model has at four hooks but for the first position."""
    root = tmp_path_factory.mktemp("inputs")
    tokens, token_ids = write_tokens(root)
    found = capture(load_model(ModelConfig(name=model_folder, dtype="float32")), HOOKS, torch.from_numpy(token_ids).long())
    sequence, position = np.divmod(np.arange(token_ids.size), CONTEXT)
    cuts = {"train": (0, TRAIN), "middle": (TRAIN, TRAIN + 15), "end": (TRAIN + 15, TRAIN + HELD_OUT)}

    def rows(hook: str, first: int, stop: int) -> Rows:
        kept = (position > 0) & (sequence >= first) & (sequence < stop)
        activation = found[hook].flatten(0, 1).numpy()[kept]
        return Rows(activation, token_ids.ravel()[kept], sequence[kept], position[kept].astype(np.int32))

    shards = {
        hook: ([rows(hook, *cuts["train"])], [rows(hook, *cuts["middle"]), rows(hook, *cuts["end"])]) for hook in HOOKS
    }
    return tokens, store_hooks(f"{root}/activations-{'c' * 12}", shards)


def settings(model_folder: str, **train: Any) -> PipelineConfig:
    return parse_config(
        {
            "text": {"source": "unused.txt"},
            "model": {"name": model_folder, "dtype": "float32"},
            "harvest": {"hooks": HOOKS},
            "train": train,
            "score": {"context_tokens": 3, "splice_tokens": 20 * CONTEXT, "top_logits": 4, "neighbours": 2},
        }
    )


def scored(sae: SparseAutoencoder, config: PipelineConfig, inputs: tuple[str, str], folder: Path) -> str:
    save(sae, str(folder / "sae"), {})
    score(config, *inputs, str(folder / "sae"), str(folder / "scores"), silent)
    return str(folder / "scores")


def summary_of(uri: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(open_store(uri).get("summary.json"))
    for name in found["definitions"]:
        value: Any = found
        for part in name.split("."):
            value = value[part]
        assert value is not None, name
    return found


def latents_of(uri: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(open_store(uri).get("latents.parquet")))


def held_out(activations: str, hooks: list[str]) -> torch.Tensor:
    split = JoinedSplit(activations, hooks, "eval")
    return torch.from_numpy(np.concatenate([split.shard(i).activation for i in range(2)])).double()


def fvu(x: torch.Tensor, x_hat: torch.Tensor) -> float:
    return float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())


def test_a_transcoder_is_scored_on_its_target(
    make_sae: MakeSAE, model_folder: str, inputs: tuple[str, str], tmp_path: Path
) -> None:
    sae, config = make_sae(), settings(model_folder, hook=INPUT, target_hook=OUTPUT)
    out = scored(sae, config, inputs, tmp_path)
    summary, latents = summary_of(out), latents_of(out)
    rows = held_out(inputs[1], [INPUT, OUTPUT])
    assert summary["fvu"] == pytest.approx(fvu(rows[:, D_IN:], sae(rows[:, :D_IN].float()).double()), rel=1e-5)
    assert (summary["kind"], summary["input_hooks"], summary["output_hooks"]) == ("transcoder", [INPUT], [OUTPUT])
    assert set(summary["baselines"]) == {"mean", "sae_same_rows", "linear", "linear_rank_k"}
    assert 0 < summary["baselines"]["linear"]["fvu"] < summary["baselines"]["linear_rank_k"]["fvu"] < 1
    assert summary["ce"]["tokens"] == 20 * (CONTEXT - 1)
    assert latents["encoder_decoder_cosine"].null_count == D_SAE
    assert len(latents["promoted"][0]) == 4
    assert "decoder_norm_share" not in latents.column_names


def test_a_crosscoder_is_scored_on_all_its_hooks_and_on_each(
    make_sae: MakeSAE, model_folder: str, inputs: tuple[str, str], tmp_path: Path
) -> None:
    sae, config = make_sae(d_in=2 * D_IN), settings(model_folder, hooks=LAYERS)
    out = scored(sae, config, inputs, tmp_path)
    summary, latents = summary_of(out), latents_of(out)
    rows = held_out(inputs[1], LAYERS)
    rebuilt = sae(rows.float()).double()
    for part, (hook, found) in enumerate(zip(LAYERS, summary["hooks"], strict=True)):
        here = slice(part * D_IN, (part + 1) * D_IN)
        assert (found["hook"], found["d_in"]) == (hook, D_IN)
        assert found["fvu"] == pytest.approx(fvu(rows[:, here], rebuilt[:, here]), rel=1e-5)
    assert min(h["fvu"] for h in summary["hooks"]) < summary["fvu"] < max(h["fvu"] for h in summary["hooks"])
    assert set(summary["baselines"]) == {"mean", "pca", "random_directions", "training_rows", "sae_same_rows"}
    assert summary["baselines"]["sae_same_rows"]["fvu"] == pytest.approx(summary["fvu"], rel=1e-5)
    assert summary["ce"] is None
    shares = np.array(latents["decoder_norm_share"].to_pylist())
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert [hook["decoder_norm_share"] for hook in summary["hooks"]] == pytest.approx(shares.mean(0), rel=1e-5)


def test_what_latents_of_a_crosscoder_promote_is_told_by_their_decoder_at_the_last_hook(
    make_sae: MakeSAE, model_folder: str, inputs: tuple[str, str], tmp_path: Path
) -> None:
    both = make_sae(d_in=2 * D_IN)
    both.W_dec[:, D_IN:] = make_sae().W_dec
    promoted = latents_of(scored(both, settings(model_folder, hooks=LAYERS), inputs, tmp_path))["promoted"]
    (tmp_path / "alone").mkdir()
    alone = latents_of(scored(make_sae(), settings(model_folder, hook=LAYERS[1]), inputs, tmp_path / "alone"))["promoted"]
    assert promoted.to_pylist() == alone.to_pylist()


def test_a_transcoder_to_another_width_is_refused(
    make_sae: MakeSAE, model_folder: str, inputs: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="gives d_out 5"):
        scored(make_sae(d_out=5), settings(model_folder, hook=INPUT, target_hook=OUTPUT), inputs, tmp_path)

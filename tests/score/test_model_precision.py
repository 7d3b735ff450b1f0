from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.lm.config import ModelConfig
from tasks.score.work import _model

SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}


@pytest.mark.parametrize(
    ("flags", "dtype", "multiplied_in"),
    [
        ("avx2", "bfloat16", torch.float32),
        ("avx2 avx512_bf16", "bfloat16", torch.bfloat16),
        ("avx2 avx512_bf16", "float16", torch.float32),
        ("avx2 avx512_bf16", "float32", torch.float32),
        ("avx2", "float32", torch.float32),
    ],
)
def test_scoring_emulates_no_precision_and_keeps_the_weights_of_the_harvest(
    flags: str, dtype: str, multiplied_in: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tasks.precision._cpuinfo", lambda: f"flags : {flags}\n")
    _model.cache_clear()
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path)
    weights = _model(ModelConfig(name=str(tmp_path), dtype=dtype)).get_output_embeddings().weight
    _model.cache_clear()
    assert weights.dtype == multiplied_in
    assert torch.equal(weights.to(getattr(torch, dtype)).float(), weights.float()), "rounded to model.dtype"

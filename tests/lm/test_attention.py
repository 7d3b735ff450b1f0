from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tasks.lm import attention
from tasks.lm.attention import choose_attention
from tasks.lm.hooks import capture

HOOKS = ["model.layers.2"]


@pytest.mark.parametrize(
    ("dtype", "device", "installed", "expected"),
    [
        (torch.bfloat16, "cuda:0", True, True),
        (torch.float16, "cuda:0", True, True),
        (torch.float32, "cuda:0", True, False),
        (torch.bfloat16, "cpu", True, False),
        (torch.bfloat16, "cuda:0", False, False),
    ],
)
def test_flash_attention_is_tried_on_a_gpu_in_half_precision_where_it_is_installed(
    dtype: torch.dtype, device: str, installed: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: installed)
    assert attention._suits_flash(SimpleNamespace(dtype=dtype, device=torch.device(device))) is expected


def test_a_model_keeps_what_transformers_chose_where_flash_attention_does_not_suit(tiny: Any) -> None:
    model = tiny("llama")
    choose_attention(model, HOOKS)
    assert model.config._attn_implementation == "sdpa"


def test_where_the_other_implementation_runs_it_is_used(
    tiny: Any, token_ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_suits_flash", lambda _: True)
    monkeypatch.setattr(attention, "FLASH", "eager")  # another that a CPU has
    model, before = tiny("llama"), capture(tiny("llama"), HOOKS, token_ids)
    choose_attention(model, HOOKS)
    assert model.config._attn_implementation == "eager"
    torch.testing.assert_close(capture(model, HOOKS, token_ids), before)


def test_where_it_fails_the_model_goes_on_as_before(
    tiny: Any, token_ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attention, "_suits_flash", lambda _: True)  # it is not installed, and there is no GPU
    model, before = tiny("llama"), capture(tiny("llama"), HOOKS, token_ids)
    choose_attention(model, HOOKS)
    assert model.config._attn_implementation == "sdpa"
    assert "flash-attn cannot run this model" in caplog.text
    torch.testing.assert_close(capture(model, HOOKS, token_ids), before, rtol=0, atol=0)

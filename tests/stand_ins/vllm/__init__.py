"""Stands in for vLLM 0.22 and its ExampleHiddenStatesConnector: the same arguments, the same files, made by transformers.

As vLLM does, it says where a file is before that is whole, and holds a lock beside it until then. What it does wrong is what
a test has written into the file that the environment's VLLM_FAULT names.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

FAULT = "VLLM_FAULT"
WRITING_S = 0.02
"""How long a file is not whole yet."""


@dataclass(frozen=True)
class SamplingParams:
    max_tokens: int = 16
    temperature: float = 1.0


@dataclass(frozen=True)
class RequestOutput:
    prompt_token_ids: list[int]
    kv_transfer_params: dict[str, Any] | None = field(default=None)


class LLM:
    """Knows no argument that vLLM 0.22 does not know, and asks for those that hidden states need."""

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        trust_remote_code: bool = False,
        dtype: str = "auto",
        max_model_len: int | None = None,
        enable_prefix_caching: bool | None = None,
        enable_chunked_prefill: bool | None = None,
        gpu_memory_utilization: float = 0.9,
        tensor_parallel_size: int = 1,
        distributed_executor_backend: str | None = None,
        speculative_config: dict[str, Any],
        kv_transfer_config: dict[str, Any],
    ) -> None:
        if fault() == "unknown model":
            raise RuntimeError("Model does not support EAGLE3 interface but aux_hidden_state_outputs was requested")
        assert not trust_remote_code
        assert enable_chunked_prefill is False, "0.22 refuses to go on with it"
        assert kv_transfer_config["kv_connector"] == "ExampleHiddenStatesConnector"
        assert kv_transfer_config["kv_role"] == "kv_producer"
        assert speculative_config["method"] == "extract_hidden_states"
        assert speculative_config["num_speculative_tokens"] == 1
        self._folder = Path(kv_transfer_config["kv_connector_extra_config"]["shared_storage_path"])
        self._ids = speculative_config["draft_model_config"]["hf_config"]["eagle_aux_hidden_state_layer_ids"]
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self._most = max_model_len or self._model.config.max_position_embeddings
        self._requests = 0

    def generate(
        self, prompts: Sequence[dict[str, Any]], sampling_params: SamplingParams, *, use_tqdm: bool = True
    ) -> list[RequestOutput]:
        return [self._request(prompt["prompt_token_ids"], sampling_params) for prompt in prompts]

    def _request(self, token_ids: list[int], sampling: SamplingParams) -> RequestOutput:
        assert len(token_ids) + sampling.max_tokens <= self._most
        self._requests += 1
        path = self._folder / f"{self._requests}-{os.getpid()}.safetensors"
        tensors = {"hidden_states": self._hidden_states(token_ids), "token_ids": torch.tensor(token_ids)}
        if fault() == "another sequence":
            tensors["token_ids"] = tensors["token_ids"] + 1
        if fault() in ("no lock", "another sequence"):
            save_file(tensors, path)
        else:
            lock = os.open(f"{path}.lock", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
            fcntl.flock(lock, fcntl.LOCK_EX)
            threading.Thread(target=_write, args=(tensors, path, lock)).start()
        return RequestOutput(token_ids, {"hidden_states_path": str(path)})

    def _hidden_states(self, token_ids: list[int]) -> Tensor:
        """[T, layers, d]: behind k blocks transformers' own k-th, but that the last is not normed."""
        last: list[Tensor] = []
        norm = self._model.model.norm.register_forward_pre_hook(lambda _, args: last.append(args[0]))
        with torch.no_grad():
            all_states = self._model(torch.tensor([token_ids]), output_hidden_states=True).hidden_states
        norm.remove()
        behind = [*all_states[:-1], last[0]]
        shift = 1 if fault() == "off by one" else 0
        found = torch.stack([behind[k - shift][0] for k in self._ids], dim=1)
        return found * 1.02 if fault() == "scaled" else found


def fault() -> str:
    """What it does wrong."""
    named = os.environ.get(FAULT)
    return Path(named).read_text() if named else ""


def _write(tensors: dict[str, Tensor], path: Path, lock: int) -> None:
    time.sleep(WRITING_S)
    with contextlib.suppress(Exception):  # it is told in the log of vLLM, which goes on
        if fault() != "disk full":
            save_file(tensors, path)
    os.close(lock)

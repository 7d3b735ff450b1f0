"""vLLM as an engine: its forward pass, and the files in which it leaves the residual stream.

vLLM gives hidden states by a way that it made for training draft models (``extract_hidden_states``,
https://docs.vllm.ai/en/latest/features/speculative_decoding/extract_hidden_states/): a draft model that drafts nothing keeps
the residual stream behind the blocks that are named, and a connector writes it to files.

It was written by vLLM's documentation and sources of versions 0.18 to 0.23, and tested with a stand-in; it has not run with
vLLM itself yet. What decides whether rows are right is the comparison with transformers, which each load begins with.
"""

import gc
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tasks.lm.config import ModelConfig
from tasks.lm.engines.blocks import blocks_before, readable_files
from tasks.lm.engines.errors import EngineError
from tasks.lm.engines.hidden_files import read_hidden_states
from tasks.lm.engines.own_folder import OwnFolder
from tasks.lm.engines.parity import Parity, compared, require_parity
from tasks.lm.engines.version import engine_identity
from tasks.lm.hooks import capture
from tasks.lm.load import load_model
from tasks.storage.faults import reason_of

_SHARE_OF_MEMORY = 0.9
"""Of a GPU that it has alone, which is vLLM's own default. It takes all of that when it starts."""


class VllmEngine:
    """A model in vLLM, which gives the outputs of whole blocks in main memory."""

    device = torch.device("cpu")
    attention = "vllm"

    def __init__(self, llm: Any, sampling: Any, blocks: Mapping[str, int], folder: OwnFolder) -> None:
        self._llm, self._sampling, self._folder = llm, sampling, folder
        ascending = sorted(blocks.values())
        self._places = {hook: ascending.index(n) for hook, n in blocks.items()}
        self.parity: Mapping[str, Parity] = {}

    def hidden(self, hooks: Sequence[str], token_ids: Tensor) -> dict[str, Tensor]:
        """Activations [batch, context, d_in] at each hook.

        Raises:
            SaemillError: vLLM has not written them.
        """
        sequences = token_ids.tolist()
        with self._folder.there():
            done = self._llm.generate([{"prompt_token_ids": ids} for ids in sequences], self._sampling, use_tqdm=False)
            paths = [output.kv_transfer_params["hidden_states_path"] for output in done]
            n = len(self._places)
            states = [read_hidden_states(path, ids, n) for path, ids in zip(paths, sequences, strict=True)]
        return {hook: torch.stack([of[:, self._places[hook]] for of in states]) for hook in hooks}


def load_vllm(
    config: ModelConfig, hooks: Sequence[str], sample: Tensor, gpus: float, name: str, sequences: int
) -> VllmEngine:
    """The model in vLLM, once it has been held against transformers.

    Args:
        config: names the model.
        hooks: outputs of whole blocks.
        sample: token ids [batch, context] to compare; sequences of just this length are what it is loaded for.
        gpus: that this process has. Of several the model gets all by tensor parallelism, of a part of one that part.
        name: of the folder for vLLM's files; processes of one harvest share it.
        sequences: that it will be given at once.

    Raises:
        EngineError: vLLM is not there, cannot run the model, or gives other activations than transformers.
        InputError: there is no such model, or no such hook.
    """
    version = engine_identity(config)["engine_version"]
    reference = load_model(config, "cuda" if gpus else "cpu", hooks)
    blocks = blocks_before(reference, hooks)
    expected = {hook: x.cpu() for hook, x in capture(reference, hooks, sample.to(reference.device)).items()}
    dtype = str(reference.dtype).removeprefix("torch.")
    del reference
    _free_memory()  # vLLM starts only where a GPU has as much left as it is told to take
    folder = OwnFolder(name, sequences * sum(x[0].nbytes for x in expected.values()))
    settings = _settings(config, dtype, sample.shape[1], gpus) | _hidden_states(sorted(blocks.values()), folder)
    try:
        vllm = importlib.import_module("vllm")
        sampling = vllm.SamplingParams(max_tokens=1, temperature=0.0)
        engine = VllmEngine(vllm.LLM(**settings), sampling, blocks, folder)
        found = engine.hidden(hooks, sample)
    except Exception as error:  # whatever it raises at a model that it does not know, or at a GPU that is too small
        raise EngineError(f"vLLM {version} cannot run model {config.label!r}: {reason_of(error)}.") from None
    engine.parity = {hook: compared(found[hook], expected[hook]) for hook in hooks}
    require_parity(f"vLLM {version}", engine.parity)
    return engine


def _settings(config: ModelConfig, dtype: str, context_length: int, gpus: float) -> dict[str, Any]:
    files = readable_files(config)
    return {
        "model": files.location,
        "revision": files.revision,
        "tokenizer_revision": files.revision,
        "trust_remote_code": False,
        "dtype": dtype,
        "max_model_len": context_length + 1,  # and the one token that has to be generated
        # A prefix that is found in the cache, or a sequence cut in parts, would be one more thing to be right.
        "enable_prefix_caching": False,
        "enable_chunked_prefill": False,
        **_on_gpus(gpus),
    }


def _on_gpus(gpus: float) -> dict[str, Any]:
    if gpus > 1:
        # Within an actor of Ray, vLLM would have Ray start its processes, on GPUs that this actor does not hold.
        return {"tensor_parallel_size": int(gpus), "distributed_executor_backend": "mp"}
    return {"gpu_memory_utilization": _SHARE_OF_MEMORY * gpus} if gpus else {}


def _hidden_states(blocks: Sequence[int], folder: OwnFolder) -> dict[str, Any]:
    """What has vLLM write the residual stream behind so many blocks; the files hold it in this order, which is ascending."""
    draft = {"hf_config": {"eagle_aux_hidden_state_layer_ids": list(blocks)}}
    connector = {"kv_connector": "ExampleHiddenStatesConnector", "kv_role": "kv_producer"}
    return {
        "speculative_config": {
            "method": "extract_hidden_states",
            "num_speculative_tokens": 1,
            "draft_model_config": draft,
        },
        "kv_transfer_config": connector | {"kv_connector_extra_config": {"shared_storage_path": str(folder.path)}},
    }


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

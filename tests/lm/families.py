"""Tiny random models of every family of transformers that reads text, and what saemill's hooks find in them.

``python -m tests.lm.families llama deberta`` tries these, without names all; families_page.py writes FAMILIES.md.
"""

import collections
import contextlib
import copy
import random
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES
from transformers.utils import ModelOutput

from tasks.errors import InputError
from tasks.lm.hooks import capture, list_hooks, prune_after, replace
from tasks.lm.load import auto_class

VOCABULARY = 64
SHAPE = (2, 12)
_MOST_PARAMETERS = 3_000_000
NOT_TRIED = "not tried: "

LAYERS = ["num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "decoder_layers"]
# Every other name under which a family keeps a size, and what a tiny model has there.
SIZES: dict[str, Any] = {
    **dict.fromkeys(["hidden_size", "n_embd", "d_model", "dim", "embedding_size", "emb_dim", "embed_dim"], 32),
    **dict.fromkeys(["intermediate_size", "n_inner", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"], 48),
    **dict.fromkeys(["d_inner", "moe_intermediate_size", "shared_expert_intermediate_size", "hidden_dim"], 24),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads"], 4),
    **dict.fromkeys(["encoder_attention_heads", "decoder_attention_heads"], 4),
    **dict.fromkeys(["num_key_value_heads", "num_kv_heads", "n_head_kv"], 2),
    **dict.fromkeys(["head_dim", "d_kv", "v_head_dim", "qk_nope_head_dim", "kv_channels", "rotary_dim"], 8),
    "qk_rope_head_dim": 4,
    **dict.fromkeys(["q_lora_rank", "kv_lora_rank"], 16),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"], 64),
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "num_experts_per_token", "moe_top_k"], 2),
    **dict.fromkeys(["chunk_size", "mamba_chunk_size"], 8),
    **dict.fromkeys(["mamba_d_state", "state_size", "ssm_state_size"], 8),
    "vocab_size": VOCABULARY,
    "type_vocab_size": 2,
}
TOKENS = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 4, "sep_token_id": 5}

MLA = {"head_dim": 4, "num_key_value_heads": 4}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
# What a family needs beside small sizes.
EXTRAS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(["deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "longcat_flash"], MLA),
    **dict.fromkeys(["minicpm3", "mistral4", "youtu", "axk1", "axk2"], MLA),
    **dict.fromkeys(["qwen2_vl_text", "qwen2_5_vl_text", "glm4v_text", "glm4v_moe_text", "glm_ocr_text"], MROPE),
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16},
    "big_bird": {"block_size": 4, "num_random_blocks": 1, "attention_type": "original_full"},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 4},
    "funnel": {"block_sizes": [1, 1], "num_hidden_layers": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"mamba_n_heads": 4, "mamba_d_head": 16},
    **{kind: {"attention_window": [4, 4]} for kind in ("led", "longformer")},
    "luke": {"entity_vocab_size": 8},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1},
    "prophetnet": {"num_hidden_layers": None, "num_encoder_layers": 2, "num_decoder_layers": 2},
    "reformer": {
        "is_decoder": True,
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [16, 16],
        "attn_layers": ["local"] * 2,
    },
    "roc_bert": {"pronunciation_vocab_size": 64, "shape_vocab_size": 64, "pronunciation_embed_dim": 8, "shape_embed_dim": 8},
    "xlnet": {"max_position_embeddings": None},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}


def text_families() -> list[str]:
    """Model types whose configuration is of one text model, and no larger thing's, in which it is a part."""
    found = []
    for kind in sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_MAPPING_NAMES}):
        with contextlib.suppress(Exception):
            config = AutoConfig.for_model(kind)
            if hasattr(config, "vocab_size") and not config.sub_configs:
                found.append(kind)
    return found


def tiny_config(kind: str, layers: int = 2) -> Any:
    """A family's configuration with every size small."""
    default = AutoConfig.for_model(kind)
    wanted = {**dict.fromkeys(LAYERS, layers), **SIZES, **TOKENS, **EXTRAS.get(kind, {})}
    kept = {name: value for name, value in wanted.items() if _has(default, name) or name in EXTRAS.get(kind, {})}
    return AutoConfig.for_model(kind, **{name: value for name, value in kept.items() if value is not None})


def _has(config: Any, name: str) -> bool:
    own = getattr(type(config), name, None)
    if isinstance(own, property) and own.fset is None:
        return False
    with contextlib.suppress(Exception):  # some sizes differ from layer to layer, and asking for one of all raises
        return getattr(config, name, None) is not None
    return False


def build(kind: str, device: str = "cpu", layers: int = 2) -> Any:
    """A tiny model with random weights in place of all that begins as zeros or ones."""
    torch.manual_seed(0)
    config = tiny_config(kind, layers)
    with torch.device(device):
        model = auto_class(config).from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    model.config.use_cache = False  # hybrid models of two layers have none to begin with
    if device == "cpu":
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


@dataclass
class Outcome:
    """What the hooks of one family came to."""

    kind: str
    model: str = ""
    hooks: int = 0
    """That ``saemill hooks`` lists."""
    outputs: int = 0
    """Of those tried, equal to a plain forward hook's, to the bit, after pruning."""
    inputs: int = 0
    spliced: int = 0
    """Identity changed nothing, and zeros did what a plain hook's zeros do."""
    refused: dict[str, int] = field(default_factory=collections.Counter)
    """Sentences, of hooks' inputs that are no activations."""
    wrong: list[str] = field(default_factory=list)
    sentence: str = ""
    """With which the whole family is refused."""
    seconds: float = 0.0


def check(kind: str, share: float = 1.0, seed: int = 0) -> Outcome:
    """Try a share of a family's hooks."""
    began, outcome = time.process_time(), Outcome(kind)
    try:
        model = build(kind)
        outcome.model = type(model).__name__
        listed = [hook.name for hook in list_hooks(build(kind, "meta"))]
    except InputError as error:
        outcome.sentence = str(error)
        return outcome
    if sum(parameter.numel() for parameter in model.parameters()) > _MOST_PARAMETERS:
        raise ValueError("its tiny configuration is not tiny")
    outcome.hooks = len(listed)
    n = max(2, round(share * len(listed)))
    tried = listed if n >= len(listed) else random.Random(seed).sample(listed, n)
    ids = torch.randint(6, VOCABULARY, SHAPE, generator=torch.Generator().manual_seed(1))
    plain, whole = _plain(model, ids)
    for name in tried:
        for hook in (name, f"{name}:input"):
            try:
                same = torch.equal(
                    _pruned(model, hook, ids), plain[hook].flatten(2) if plain[hook].ndim > 2 else plain[hook]
                )
            except InputError as error:
                outcome.refused[str(error).partition(" for ")[0].replace(repr(hook), "X")] += 1
                if hook == name:
                    outcome.wrong.append(f"{hook}: {error}")
                continue
            outcome.outputs += same and hook == name
            outcome.inputs += same and hook != name
            if not same:
                outcome.wrong.append(hook)
        if _spliced(model, name, ids, whole):
            outcome.spliced += 1
        else:
            outcome.wrong.append(f"{name} spliced")
    outcome.seconds = time.process_time() - began
    return outcome


def _read(model: Any, ids: Tensor) -> Any:
    encodes = model.config.is_encoder_decoder
    with torch.no_grad():
        return (model.get_encoder() if encodes else model)(input_ids=ids)


def _plain(model: Any, ids: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What plain forward hooks see at all modules in one pass, and what the model gives."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, value: Any) -> None:
        while isinstance(value, (tuple, list, ModelOutput)) and len(value):
            value = value[0]
        if isinstance(value, Tensor) and name not in seen:
            seen[name] = value.clone()

    def before(name: str, args: Any, kwargs: Any) -> None:
        value = args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values()), None))
        keep(f"{name}:input", value)

    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            stack.enter_context(module.register_forward_hook(lambda _, __, out, name=name: keep(name, out)))
            stack.enter_context(
                module.register_forward_pre_hook(lambda _, args, kw, name=name: before(name, args, kw), with_kwargs=True)
            )
        whole = _read(model, ids)
    shaped = {
        name: value.reshape(*SHAPE, -1) if value.ndim == 2 and len(value) == ids.numel() else value
        for name, value in seen.items()
    }
    return shaped, whole[0]


def _pruned(model: Any, hook: str, ids: Tensor) -> Tensor:
    """What ``capture`` finds at a hook after pruning; the model is whole again afterwards."""
    held = [(module, dict(module._parameters), dict(module._buffers)) for module in model.modules()]
    try:
        prune_after(model, [hook], SHAPE[1])
        return capture(model, [hook], ids)[hook]
    finally:
        for module, parameters, buffers in held:
            module._parameters.update(parameters)
            module._buffers.update(buffers)


def _spliced(model: Any, hook: str, ids: Tensor, whole: Tensor) -> bool:
    with replace(model, hook, lambda rows: rows):
        same = _read(model, ids)[0]
    with replace(model, hook, torch.zeros_like):
        ours = _read(model, ids)[0]
    with model.get_submodule(hook).register_forward_hook(lambda _, __, output: _zeroed(output)):
        plain = _read(model, ids)[0]
    return torch.equal(same, whole) and torch.equal(ours.nan_to_num(), plain.nan_to_num())


def _zeroed(output: Any) -> Any:
    if isinstance(output, Tensor):
        return torch.zeros_like(output)
    if isinstance(output, ModelOutput):
        changed = copy.copy(output)
        name = next(iter(output))
        changed[name] = _zeroed(output[name])
        return changed
    return type(output)([_zeroed(output[0]), *output[1:]])


def measured(kinds: list[str]) -> Iterator[Outcome]:
    """What came of each family; of one that could not be built, why."""
    for kind in kinds:
        try:
            yield check(kind)
        except Exception as error:  # the tiny configuration does not suit the family
            yield Outcome(kind, sentence=f"{NOT_TRIED}{type(error).__name__}: {' '.join(str(error).split())[:150]}")


def table(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Lines of Markdown."""
    yield "| family | read as | hooks | outputs equal | inputs equal | inputs refused | spliced | wrong |"
    yield "|---|---|---|---|---|---|---|---|"
    for o in outcomes:
        if o.sentence:
            yield f"| {o.kind} | {o.model} | {o.sentence.replace('|', '/')} | | | | | |"
        else:
            counts = (o.hooks, o.outputs, o.inputs, sum(o.refused.values()), o.spliced, len(o.wrong))
            yield f"| {o.kind} | {o.model} | {' | '.join(map(str, counts))} |"


def main(*kinds: str) -> None:
    """Measure these families, or all, line by line as they are done."""
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    for line in table(measured(list(kinds) or text_families())):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])

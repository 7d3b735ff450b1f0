"""Which activations are harvested, which tokens are left out, and how the work is cut."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from tasks.activations.manifest import SAMPLED
from tasks.errors import InputError
from tasks.lm.names import canonical
from tasks.settings import LEAST_CPUS, MOST_PROCESSES, HookName, PathText, Settings


class HarvestConfig(Settings):
    """Hooks, masks and shards."""

    not_in_recipe: ClassVar[frozenset[str]] = frozenset(
        {
            "actors",
            "cpus_per_actor",
            "gpus_per_actor",
            "gpus_per_replica",
            "batch_sequences",
            "max_attempts",
            "keep",
            "window_bytes",
        }
    )

    hooks: list[HookName] = Field(["model.layers.8"], min_length=1, max_length=1024)
    """Modules by dotted name; the output is taken, or the input with ':input' behind the name."""
    dtype: Literal["bfloat16", "float16", "float32", "int8"] = "bfloat16"
    """Precision in which activations are stored: bfloat16, float16, float32, or int8 with a float32 scale for each row."""
    drop_first_position: bool = True
    """Leave out position 0 of each sequence: an attention sink whose norm is many times the others'."""
    drop_special_tokens: bool = True
    """Leave out the tokenizer's special tokens (BOS, EOS, separators)."""
    max_norm_multiple: float | None = Field(10.0, gt=1, le=1e9)
    """Leave out tokens whose activation's norm exceeds this multiple of their shard's median norm, at any of the hooks.
    Empty: keep all."""
    shard_tokens: int = Field(32_768, ge=1, lt=2**31)
    """Tokens per shard, the unit of work and of resumption."""
    row_group_rows: int = Field(4_096, ge=1, lt=2**31)
    """Rows per Parquet row group, the unit of reading and shuffling."""
    actors: int | None = Field(None, ge=1, le=MOST_PROCESSES)
    """Harvesting actors. Empty: one per GPU, or one per CPU where there is no GPU."""
    cpus_per_actor: float = Field(1, ge=LEAST_CPUS, le=4096)
    """CPUs that each actor reserves, and its torch threads."""
    gpus_per_actor: float | None = Field(None, ge=0, le=1024)
    """GPUs, or the fraction of one, that each actor reserves. Empty: 1 where the cluster has GPUs, else 0."""
    gpus_per_replica: int = Field(1, ge=1, le=1024)
    """GPUs of one machine that hold the model together, for models larger than one. Of more than 1, each actor is a group
    of so many, with one GPU each. Another number rounds otherwise: activations in bfloat16 differ by about 1%."""
    batch_sequences: int | None = Field(None, ge=1, le=1_000_000)
    """Sequences per forward pass; halved by an actor that runs out of memory. Empty: each actor doubles them, from 8,
    until that is no faster or memory ends. On a GPU another number may change activations in their last bits."""
    max_attempts: int = Field(3, ge=1, le=1000)
    """Tries per shard before it is given up: the run then ends, after all others, with an error that names it and why."""
    keep: Literal["all", "window", "none"] = "all"
    """Which training rows stay. window: harvest and training run at once, and rows are deleted when they have been trained
    on, so that no more than window_bytes are stored at any time. none: all are stored, and deleted once the SAE is trained.
    Held-out rows stay, and a sample of training rows, as scores need them."""
    window_bytes: int | None = Field(None, ge=1, le=2**60)
    """Bytes that stored rows may take with keep: window, held-out ones too. Harvest waits for room."""

    @model_validator(mode="after")
    def _check_gpus(self) -> Self:
        gpus = self.gpus_per_actor
        if gpus is not None and gpus > 1 and gpus != int(gpus):  # Ray shares one GPU among actors, but no part of a second
            raise ValueError(f"harvest.gpus_per_actor is {gpus:g} but must be a whole number, or a part of 1.")
        if self.gpus_per_replica > 1 and gpus not in (None, 0, 1):
            raise ValueError(
                f"harvest.gpus_per_actor is {gpus:g} but must be 1, or 0 for CPUs, with harvest.gpus_per_replica "
                f"{self.gpus_per_replica}."
            )
        return self

    @model_validator(mode="after")
    def _check_window(self) -> Self:
        if self.keep == "window" and self.window_bytes is None:
            raise ValueError("harvest.keep is window: say in harvest.window_bytes how many bytes rows may take.")
        return self

    @field_validator("hooks")
    @classmethod
    def _name_each_once(cls, hooks: list[str]) -> list[str]:
        try:
            found = [canonical(hook) for hook in hooks]
        except InputError as error:
            raise ValueError(str(error)) from None
        twice = sorted({hook for hook in found if found.count(hook) > 1})
        if twice:
            raise ValueError(f"harvest.hooks is {hooks} but must name each hook once: {twice[0]} (:output is the same).")
        return found


def fits_keep(manifest: Mapping[str, Any] | None, keep: str) -> bool:
    """Whether activations with such a manifest hold all rows that are to stay in the end."""
    return manifest is not None and (keep != "all" or SAMPLED not in manifest)


class ActivationsConfig(Settings):
    """Activations of your own, in place of text, model and harvest."""

    not_in_recipe: ClassVar[frozenset[str]] = frozenset({"source", "labels"})

    source: PathText | None = Field(None, min_length=1)
    """A .npy [n, d_in], a .safetensors, or a Parquet file or folder (this project's schema or a list column)."""
    tensor: str | None = None
    """Name of the tensor in a .safetensors file that holds several."""
    column: str = "activation"
    """Parquet column of the activations."""
    label_column: str | None = None
    """Parquet column with a label for each row."""
    labels: PathText | None = Field(None, min_length=1)
    """Text file with one label per line, one line per row (.npy and .safetensors)."""
    eval_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of rows held out, chosen by a hash of the row number. 0: score the training rows, and say so."""
    dtype: Literal["bfloat16", "float16", "float32", "int8"] = "float32"
    """Precision in which activations are stored: bfloat16, float16, float32, or int8 with a float32 scale for each row."""

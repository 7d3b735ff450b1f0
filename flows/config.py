"""One frozen configuration for the whole pipeline, composed from each stage's own settings.

The same model reads YAML, takes ``--set`` overrides and renders as the Prefect UI's form.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from tasks.config_errors import mistakes_of, names_in, told, unknown
from tasks.errors import InputError
from tasks.gates.config import GatesConfig
from tasks.harvest.config import ActivationsConfig, HarvestConfig
from tasks.hook_roles import OWN, HookRoles
from tasks.lm.config import ModelConfig
from tasks.notify.config import NotifyConfig
from tasks.ray_config import RayConfig
from tasks.registry.config import RegistryConfig
from tasks.report.config import ReportConfig
from tasks.sae.config import SAEConfig
from tasks.score.config import ScoreConfig
from tasks.secret import refuse_secrets
from tasks.settings import PathText, Settings
from tasks.text.config import TextConfig
from tasks.train.config import TrainConfig
from tasks.train.sweep.config import SweepConfig
from tasks.yaml_file import parse_value, read_settings, shown


class PipelineConfig(Settings):
    """Everything that decides what a run does."""

    name: str = Field("run", pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=200)
    """Name of the run, part of every address it writes. Lower-case letters, digits, '_', '.' and '-'."""
    storage: PathText = Field("runs", min_length=1, max_length=1024)
    """Root under which all results are written: a folder or an s3:// URI."""
    model: ModelConfig = ModelConfig()
    text: TextConfig = TextConfig()
    harvest: HarvestConfig = HarvestConfig()
    activations: ActivationsConfig = ActivationsConfig()
    sae: SAEConfig = SAEConfig()
    train: TrainConfig = TrainConfig()
    sweep: SweepConfig = SweepConfig()
    score: ScoreConfig = ScoreConfig()
    gates: GatesConfig = GatesConfig()
    report: ReportConfig = ReportConfig()
    registry: RegistryConfig = RegistryConfig()
    notify: NotifyConfig = NotifyConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="before")
    @classmethod
    def _refuse_secrets(cls, values: Any) -> Any:
        refuse_secrets(values)
        return values

    @model_validator(mode="after")
    def _check_across_stages(self) -> Self:
        if self.activations.source is None and self.text.source is None:
            raise ValueError("text.source is empty: name a corpus there, or your own activations in activations.source.")
        self._check_hooks()
        self._check_lake()
        self.sweep.check(self.sae)
        if self.sae.d_sae % self.train.latent_shards:
            raise ValueError(
                f"train.latent_shards is {self.train.latent_shards} but must divide sae.d_sae ({self.sae.d_sae})."
            )
        if self.sae.skip and self.train.target_hook is None:
            raise ValueError(
                "sae.skip is on, but a linear path from an activation to itself explains all: set train.target_hook."
            )
        return self

    def _check_hooks(self) -> None:
        roles = self.roles
        if self.train.target_hook == roles.first:
            raise ValueError(f"train.target_hook is {roles.first!r}, which is what is read: leave it empty to train an SAE.")
        named = {"train.hook": roles.inputs[:1], "train.hooks": self.train.hooks, "train.target_hook": roles.outputs}
        if self.activations.source is not None and (self.train.hooks or self.train.target_hook):
            raise ValueError("train.hooks and train.target_hook are for harvested activations, not for activations.source.")
        for name, hooks in named.items():
            for hook in hooks:
                if self.activations.source is None and hook not in self.harvest.hooks:
                    raise ValueError(f"{name} is {hook!r} but must be one of harvest.hooks: {list(self.harvest.hooks)}.")

    def _check_lake(self) -> None:
        if self.activations.source is None:
            return
        if self.harvest.keep != "all":
            raise ValueError(f"harvest.keep is {self.harvest.keep}, but activations.source is stored whole: set it to all.")
        if self.train.window_tokens is not None:
            raise ValueError("train.window_tokens is for harvested activations, not for activations.source: leave it empty.")

    @property
    def roles(self) -> HookRoles:
        """Which hooks the SAE reads and which it rebuilds."""
        if self.activations.source is not None:
            return HookRoles.of_sae(OWN)
        inputs = tuple(self.train.hooks) or (self.train.hook or self.harvest.hooks[0],)
        return HookRoles(inputs, inputs if self.train.target_hook is None else (self.train.target_hook,))


def load_config(path: str | Path, overrides: Sequence[str] = (), storage: str | None = None) -> PipelineConfig:
    """Read a YAML file and apply ``a.b=c`` overrides, whose values are YAML too.

    Raises:
        InputError: the file or an override cannot be read, or names or values in them are wrong.
    """
    values = read_settings(Path(path))
    apply_overrides(values, overrides)
    if storage is not None:
        values["storage"] = storage
    return parse_config(values)


def parse_config(values: Mapping[str, Any]) -> PipelineConfig:
    """Validate plain values, turning pydantic's list of errors into one sentence each.

    Raises:
        InputError: names or values are wrong; the message names each with what is allowed.
    """
    try:
        return PipelineConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(told(mistakes_of(error), PipelineConfig)) from None


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set ``a.b=c`` in settings by name, for each of ``overrides`` in turn.

    Raises:
        InputError: one is not of that form, names no setting, or has a value that is no YAML.
    """
    for override in overrides:
        _apply(values, override)


def _apply(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"--set {shown(override)} is not of the form a.b=value.")
    try:
        value = parse_value(text)
    except ValueError as error:
        raise InputError(f"--set {shown(override)}: the value is not valid YAML: {error}.") from None
    _require_setting(keys, value)
    node = values
    for i, key in enumerate(keys[:-1]):
        child = node.setdefault(key, {})
        if child is None:
            child = node[key] = {}
        if not isinstance(child, dict):
            raise InputError(f"--set {shown(override)}: {'.'.join(keys[: i + 1])} is a value, not a group of settings.")
        node = child
    node[keys[-1]] = value


def _require_setting(keys: Sequence[str], value: object) -> None:
    """Refuse a name that no setting has, as a whole: of sea.k=3, sae.k was meant.

    Raises:
        InputError: it is unknown.
    """
    field = PipelineConfig.model_fields.get(keys[0])
    inner = names_in(field.annotation) if field is not None else []
    if field is None or (inner and len(keys) > 1 and keys[1] not in inner):
        raise InputError(unknown(".".join(keys[:2]), len(keys) == 1 and isinstance(value, Mapping), PipelineConfig))

"""The forms by which runs are started: a stored configuration by name, and the few settings that are changed most.

All other settings are reached through ``overrides``. What is left empty is as the configuration says.
"""

import contextlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import MISSING, BaseModel, ConfigDict, Field, ValidationError

from flows.config import PipelineConfig, load_config
from flows.configurations import load_stored, offered
from flows.pipeline import LAST_STAGE
from flows.stages import stage_names
from tasks.errors import InputError
from tasks.notify.config import ELSEWHERE
from tasks.sae.architectures.names import NAMES

Function = TypeVar("Function", bound=Callable[..., Any])
ARCHITECTURES: dict[str, Any] = {"enum": list(NAMES)}
CONFIGURATIONS: dict[str, Any] = {"enum": sorted(offered())}

if TYPE_CHECKING:
    Stages = str
else:
    Stages = Literal[tuple(stage_names())]
Positive = Annotated[int, Field(ge=1, strict=True)]
Model = Annotated[
    str | None,
    Field(title="Language model", description="A folder, a .gguf file, an installed package, or a Hugging Face id."),
]
Corpus = Annotated[
    str | None,
    Field(
        title="Text",
        description="Path, glob or s3:// URI of .parquet, .jsonl or .txt files, or a Hugging Face dataset.",
    ),
]
Hook = Annotated[
    str | None,
    Field(title="Hook", description="The module whose activations are studied; saemill hooks MODEL lists them."),
]
Tokens = Annotated[
    Positive | None,
    Field(title="Training length, in tokens", description="Activations seen in all, over as many epochs as that takes."),
]
Storage = Annotated[
    str | None, Field(title="Storage", description="Where results are written: a folder or s3://bucket/prefix.")
]
Overrides = Annotated[
    str | None,
    Field(
        title="Other settings",
        description="Any setting, one per line, as with --set: train.lr=1e-3. They come last and win.",
    ),
]


class Form(BaseModel):
    """What every run is given: where its settings come from."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())
    of_settings: ClassVar[dict[str, str]] = {}
    """Field by field, the setting that it changes."""

    configuration: str = Field(title="Configuration", json_schema_extra=CONFIGURATIONS)
    """A file in configs/, as it is when the run starts. All that is left empty below is as it says."""
    file: str | None = Field(None, title="Or a configuration file of your own")
    """Path or s3:// URI of a YAML file, in place of the one above."""
    storage: Storage = None
    overrides: Overrides = None

    @classmethod
    def filled(cls, given: Mapping[str, Any], stored: Mapping[str, Any]) -> Self:
        """The form with what was given, and for what is empty with what is stored in the deployment.

        Prefect's dialog for schedules may store empty copies of parameters, which must change nothing. Lines of
        ``overrides`` come after those that are stored.

        Raises:
            InputError: a value is wrong; the message says which, and what is allowed.
        """
        stored, given = _not_empty(stored), _not_empty(given)
        lines = {"overrides": "\n".join(str(values["overrides"]) for values in (stored, given) if "overrides" in values)}
        try:
            return cls.model_validate(_not_empty({**stored, **given, **lines}))
        except ValidationError as error:
            raise InputError(" ".join(_sentence(dict(found)) for found in error.errors())) from None

    def settings(self) -> PipelineConfig:
        """All settings of the run.

        Raises:
            InputError: there is no such configuration, or names or values in it or in the form are wrong.
        """
        lines = [line.strip() for line in (self.overrides or "").splitlines()]
        refuse_plain_secrets(lines)
        overrides = [*self._changed(), *(line for line in lines if line and not line.startswith("#"))]
        return load_stored(self.file or self.configuration, overrides, self.storage)

    def _changed(self) -> list[str]:
        """The fields as ``--set`` would have them; JSON is YAML."""
        values = {setting: getattr(self, name) for name, setting in self.of_settings.items()}
        values["harvest.hooks"] = None if values.get("harvest.hooks") is None else [values["harvest.hooks"]]
        return [f"{setting}={json.dumps(value)}" for setting, value in values.items() if value not in (None, [])]


class TrainingForm(Form):
    """What every run that trains is given beside: activations of what, and how many."""

    of_settings = {
        "model": "model.name",
        "corpus": "text.source",
        "hook": "harvest.hooks",
        "tokens": "train.tokens",
    }

    model: Model = None
    corpus: Corpus = None
    hook: Hook = None
    tokens: Tokens = None


class PipelineForm(TrainingForm):
    """The form of ``pipeline``."""

    of_settings = TrainingForm.of_settings | {"architecture": "sae.arch", "d_sae": "sae.d_sae", "k": "sae.k"}

    architecture: str | None = Field(None, title="Architecture", json_schema_extra=ARCHITECTURES)
    """How the SAE's codes are made sparse; saemill architectures explains each."""
    d_sae: Positive | None = Field(None, title="Latents")
    """Usually 4 to 64 times the width of the hook."""
    k: Positive | None = Field(None, title="Active latents per token")
    """On average; less than there are latents."""
    until: Stages = Field(LAST_STAGE, title="Last stage")
    """Where to stop. What is finished is not done again, so a later run goes on from there."""


class SweepForm(TrainingForm):
    """The form of ``sweep``."""

    of_settings = TrainingForm.of_settings | {
        "architectures": "sweep.archs",
        "d_sae": "sweep.d_sae",
        "k": "sweep.k",
        "lr": "sweep.lr",
        "seeds": "sweep.seeds",
    }

    architectures: list[Annotated[str, Field(json_schema_extra=ARCHITECTURES)]] = Field([], title="Architectures")
    """Each combination of the values in these lists is trained."""
    d_sae: list[Positive] = Field([], title="Latents")
    """Numbers of latents."""
    k: list[Positive] = Field([], title="Active latents per token")
    """On average."""
    lr: list[Annotated[float, Field(gt=0)]] = Field([], title="Peak learning rates")
    """Such as 0.0003."""
    seeds: list[Annotated[int, Field(ge=0, strict=True)]] = Field([], title="Seeds of the initial weights")
    """Two or more tell which latents are found again."""


class NightlyForm(Form):
    """The form of ``nightly``, which is mostly started by the clock."""

    skip_if_late_hours: Annotated[float, Field(gt=0)] = Field(6.0, title="Skip when late by more than, in hours")
    """A night that the machine slept through is left out rather than run by day."""


LONGEST = 110
"""Characters of what the configurations say, in a field's description."""
LAST = ("tokens", "storage", "until", "skip_if_late_hours", "overrides")
"""Fields at the end of each form, in this order."""


def refuse_plain_secrets(overrides: Iterable[str]) -> None:
    """Refuse what would stand in a server's database for all its users to read.

    Raises:
        InputError: a line gives a secret itself and not where it lies.
    """
    for line in overrides:
        name, _, value = (part.strip() for part in line.partition("="))
        if name in ("notify.webhook", "notify.secret") and not value.strip("'\"").startswith(ELSEWHERE):
            raise InputError(
                f"{name} would be stored with the run, for everybody to read. Say where it is, env:NAME or file:PATH, or "
                "put it into a configuration file."
            )


def takes(form: type[Form]) -> Callable[[Function], Function]:
    """Have Prefect offer the fields of ``form`` as the parameters of a flow that takes them as keywords.

    Prefect makes its form from the signature. Its own way from types to a schema would lose titles, and would give a
    field that may be empty two tabs, "int" and "None" (prefect 3.8.8); so each parameter carries its schema whole.
    """

    def decorate(function: Function) -> Function:
        fields = form.model_json_schema()["properties"]
        for name, setting in form.of_settings.items():
            fields[name]["description"] += f" {_told(setting)}"
        names = [*(name for name in fields if name not in LAST), *(name for name in LAST if name in fields)]
        parameters = [_parameter(name, fields[name], form.model_fields[name].is_required()) for name in names]
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return function

    return decorate


def _parameter(name: str, field: dict[str, Any], required: bool) -> inspect.Parameter:
    """A parameter whose field is blank at first; a default of null would be sent as a value, and refused."""
    (kind,) = (kind for kind in field.pop("anyOf", [{}]) if kind.get("type") != "null")
    default = field.pop("default", None) or MISSING
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[Any, Field(json_schema_extra=field | kind)],
        default=inspect.Parameter.empty if required else default,
    )


def _told(setting: str) -> str:
    """What the configurations on offer say, such as 'sae.d_sae: 4608 (demo, nightly), 16 (toy)'."""
    by_value: dict[str, list[str]] = {}
    for name, path in sorted(offered().items()):
        with contextlib.suppress(InputError):  # a run with it will say what is wrong
            value = attrgetter(setting)(load_config(path))
            by_value.setdefault(", ".join(map(str, value)) if isinstance(value, list) else str(value), []).append(name)
    told = "; ".join(f"{value} ({', '.join(names)})" for value, names in by_value.items() if value not in ("None", "()"))
    return f"{setting}: {told}." if 0 < len(told) <= LONGEST else f"{setting}."


def _not_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not MISSING and not _empty(value)}


def _empty(value: Any) -> bool:
    return value is None or value in ([], {}) or (isinstance(value, str) and not value.strip())


def _sentence(error: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{where} is empty: name one of {', '.join(sorted(offered()))}."
    return f"{where} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}."

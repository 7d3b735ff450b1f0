"""``saemill score`` and ``saemill report`` of an SAE by its URI, trained or imported, without a configuration of a run."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from flows.config import apply_overrides
from flows.console import OnConsole, listening, logged_to, say
from flows.preflight import check_storage
from tasks.config_errors import mistakes_of, told
from tasks.errors import ArtifactError, InputError
from tasks.gates.config import GatesConfig
from tasks.hook_roles import HookRoles
from tasks.lm.config import ModelConfig
from tasks.ray_config import RayConfig
from tasks.report.about import About
from tasks.report.config import ReportConfig
from tasks.report.descent import read_descent
from tasks.report.stage import ReportStage
from tasks.score.config import ScoreConfig
from tasks.score.stage import ScoreStage
from tasks.settings import Settings
from tasks.stage import Stage
from tasks.storage.artifacts import address, read_json, require_manifest, root_of
from tasks.storage.objects import open_store
from tasks.storage.paths import shown

WEIGHTS = "sae.safetensors"


class DirectSettings(Settings):
    """The settings that make a difference to an SAE that is there already."""

    model: ModelConfig = ModelConfig()
    score: ScoreConfig = ScoreConfig()
    gates: GatesConfig = GatesConfig()
    report: ReportConfig = ReportConfig()
    ray: RayConfig = RayConfig()


@dataclass(frozen=True, slots=True)
class Given:
    """What a command is given: an SAE and the activations that it is for, as URIs of directories, and options."""

    sae: str
    activations: str | None
    """None: no SAE is given, but a configuration."""
    tokens: str | None = None
    """Those that were harvested, for the text of latents' contexts."""
    hook: str | None = None
    """Which hook of the activations the SAE reads, where it does not say so itself."""
    target_hook: str | None = None
    """Which it rebuilds, where that is another."""
    out: str | None = None
    """Where the result comes to lie; None: below the root, with its content in its name."""
    root: str | None = None
    """Of results; None: that of the activations."""
    settings: tuple[str, ...] = ()
    """As with ``--set``."""

    def require_nothing_beside(self, command: str) -> None:
        """Refuse options that mean nothing where a configuration is given.

        Raises:
            InputError: there is one.
        """
        options = {"--tokens": self.tokens, "--hook": self.hook, "--target-hook": self.target_hook, "--out": self.out}
        for name, value in options.items():
            if value is not None:
                raise InputError(
                    f"{name} is for an SAE that is given by its URI: saemill {command} SAE_URI ACTIVATIONS_URI."
                )

    @property
    def roles(self) -> HookRoles | None:
        """The hooks as they are given."""
        return roles_of_options(self.hook, self.target_hook)


def roles_of_options(hook: str | None, target_hook: str | None) -> HookRoles | None:
    """What ``--hook`` and ``--target-hook`` say; None where they say nothing.

    Raises:
        InputError: it is said what is rebuilt, but not what is read.
    """
    if hook is None:
        if target_hook is not None:
            raise InputError("--target-hook says what is rebuilt; --hook must say what is read.")
        return None
    return HookRoles((hook,), (target_hook or hook,))


def root_beside(activations: str, root: str | None) -> str:
    """The root of results that is given, or else that of the activations.

    Raises:
        InputError: none is given, and the activations do not lie below one.
    """
    if root is not None:
        return open_store(root).uri
    if activations.split("/")[-2:-1] != ["activations"]:
        raise InputError(
            f"{activations} is not below a folder 'activations', beside which results could be put: say where with "
            "--out, or below which root with --storage."
        )
    return root_of(activations)


def score(given: Given) -> str:
    """Score an SAE on held-out activations; the URI of the scores.

    Raises:
        InputError: there is no SAE, it does not fit the activations, or a setting is wrong.
        ArtifactError: a directory is unfinished or damaged.
    """
    settings, inputs = settings_of(given.settings, ("score", "ray", "model")), Inputs.of(given)
    stage = ScoreStage(
        settings=settings.score,
        model=None if inputs.tokens is None else model_of(inputs, settings.model),
        cluster=settings.ray,
        hooks=given.roles,
        tokens=inputs.tokens,
        activations=inputs.activations,
        sae=inputs.sae,
    )
    found = stage.job().hooks  # refused before anything is written or started
    model = None if stage.model is None else [stage.model.name, stage.model.revision, stage.model.dtype]
    return _run(stage, given.out or inputs.place(stage, given.root, {"hooks": found.to_json(), "model": model}))


def report(given: Given, scores: str, matched: str | None = None) -> str:
    """Write the report on scores of an SAE, with lines of descent where it is given a match that ends with it; its URI.

    Raises:
        InputError: the scores are of another SAE, or a setting is wrong.
        ArtifactError: a directory is unfinished or damaged.
    """
    settings, inputs, scores = settings_of(given.settings, ("report",)), Inputs.of(given), open_store(scores).uri
    scored = require_manifest(scores)
    _require_same_width(inputs.sae, scores)
    shown_settings = {**scored.get("recipe", {}), "report": settings.report.model_dump(mode="json")}
    stage = ReportStage(
        about=About(settings=settings.report, shown=shown_settings),
        tokens=inputs.tokens,
        activations=inputs.activations,
        sae=inputs.sae,
        scores=scores,
        matched=None if matched is None else open_store(matched).uri,
    )
    if stage.matched is not None:
        read_descent(stage.matched, inputs.sae)  # refused before anything is written
    return _run(stage, given.out or inputs.place(stage, given.root, {}, *stage.recipe().inputs))


def scores_as_json(uri: str) -> dict[str, Any]:
    """Where scores are, and what their summary says."""
    return {"scores": uri, "summary": read_json(uri, "summary.json")}


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is read, as absolute URIs, since Ray's workers have a directory of their own."""

    sae: str
    activations: str
    tokens: str | None

    @classmethod
    def of(cls, given: Given) -> "Inputs":
        """What a command is given."""
        assert given.activations is not None
        tokens = None if given.tokens is None else open_store(given.tokens).uri
        return cls(open_store(given.sae).uri, open_store(given.activations).uri, tokens)

    def place(self, stage: Stage, root: str | None, more: dict[str, Any], *also: str) -> str:
        """The address of a result below the root, which other settings, ``more`` of them, and other inputs change."""
        root = root_beside(self.activations, root)
        settings = {"version": stage.version, **stage.recipe().settings, **more}
        name = re.sub(r"-[0-9a-f]{12}$", "", self.sae.rpartition("/")[2])
        return address(root, stage.folder, name, settings, (_content(self.sae), self.activations, self.tokens or "", *also))


def settings_of(overrides: Sequence[str], groups: Sequence[str]) -> DirectSettings:
    """The settings with ``a.b=c`` overrides, of which only those of ``groups`` mean anything here.

    Raises:
        InputError: there is no such setting, it means nothing here, or its value is wrong.
    """
    values: dict[str, Any] = {}
    apply_overrides(values, overrides)
    if idle := sorted(values.keys() - set(groups)):
        raise InputError(f"--set {idle[0]} changes nothing of an SAE that is there; here are {', '.join(groups)}.")
    try:
        return DirectSettings.model_validate(values)
    except ValidationError as error:
        raise InputError(told(mistakes_of(error), DirectSettings)) from None


def model_of(inputs: Inputs, wanted: ModelConfig) -> ModelConfig | None:
    """The model of the activations, as the SAE or they name it, or as it is asked for; None: they are of no model.

    It runs in the precision in which the activations were harvested, unless another is asked for.
    """
    harvested = require_manifest(inputs.activations).get("model") or {}
    asked = wanted.model_dump(exclude_unset=True)
    stored = read_json(inputs.sae, "config.json") or {}
    named = {"name": stored.get("model") or harvested.get("name"), "revision": stored.get("revision")}
    if "name" in asked:
        named = {}
    values = {**named, "dtype": harvested.get("dtype") or "float32", **asked}
    return ModelConfig(**values) if values.get("name") else None


def _content(sae: str) -> str:
    """What the SAE is, wherever it lies."""
    store, found = open_store(sae), hashlib.sha256()
    for key in (WEIGHTS, "config.json"):
        try:
            found.update(store.get(key))
        except FileNotFoundError:
            raise InputError(f"There is no SAE at {shown(sae)}: it lacks {key}.") from None
    return f"sha256:{found.hexdigest()}"


def _require_same_width(sae: str, scores: str) -> None:
    stored, summary = read_json(sae, "config.json"), read_json(scores, "summary.json")
    if stored is None:
        raise InputError(f"There is no SAE at {shown(sae)}: it lacks config.json.")
    if summary is None:
        raise ArtifactError(f"{scores}/summary.json is missing. Delete {scores} and score again.")
    if stored.get("d_sae") != summary.get("d_sae"):
        raise InputError(
            f"The scores at {scores} are of an SAE of {summary.get('d_sae')} latents, but that at {sae} has "
            f"{stored.get('d_sae')}."
        )


def _run(stage: Stage, out: str) -> str:
    out = open_store(out).uri
    check_storage(out)
    console = Console(stderr=True)
    finished = stage.finished(out)
    say(console, f"{stage.name}: {out}{' (finished earlier)' if finished else ''}")
    if not finished:
        with listening(console) as listener, logged_to(OnConsole(console)):
            stage.run(out, listener)
    return out

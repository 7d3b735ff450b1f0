"""The commands that run stages and tell how far they are: run, harvest, train, score, report and status."""

import dataclasses
import json

import typer

from flows import direct
from flows.commands.options import (
    AsJson,
    ConfigOrSae,
    ConfigPath,
    OfActivations,
    OfIdentity,
    OfScores,
    OfTokens,
    OutUri,
    Overrides,
    ReadHook,
    RebuiltHook,
    Storage,
)
from flows.commands.running import run_until
from flows.config import load_config
from flows.console import stdout_kept_clean
from flows.direct import Given
from flows.references import sae_at
from flows.status import describe_status, status_of
from tasks.errors import InputError


def run(config: ConfigPath, overrides: Overrides = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """Run the whole pipeline and print the path of its report. What is finished is not done again."""
    run_until("report", config, overrides, storage, as_json)


def harvest(config: ConfigPath, overrides: Overrides = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """Write the model's activations, and print where they are.

    The text is tokenized first. A harvest that was stopped or killed goes on where it was.
    """
    run_until("harvest", config, overrides, storage, as_json)


def train(config: ConfigPath, overrides: Overrides = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """Train the SAE, after what it needs, and print where it is.

    Ctrl-C and SIGTERM let it take a checkpoint where it is, within 20 s; after a kill -9 it goes on from its last one.
    Either way it ends with the weights of a run that was never stopped.
    """
    run_until("train", config, overrides, storage, as_json)


def score(
    config: ConfigOrSae,
    activations: OfActivations = None,
    tokens: OfTokens = None,
    hook: ReadHook = None,
    target_hook: RebuiltHook = None,
    out: OutUri = None,
    overrides: Overrides = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Score an SAE's latents, and print where the scores are.

    Of CONFIG that is done after what it needs. An SAE_URI, be it trained or imported, is scored on ACTIVATIONS_URI without
    a configuration; --set takes settings of score, model and ray. With --tokens its latents are shown in their text and
    told in tokens, and it is spliced into the model, which --set model.name names where the SAE knows it by another name.
    """
    sae = config if activations is None else sae_at(config, storage)
    given = Given(sae, activations, tokens, hook, target_hook, out, storage, tuple(overrides or ()))
    if activations is None:
        given.require_nothing_beside("score")
        run_until("score", config, overrides, storage, as_json)
        return
    with stdout_kept_clean():
        found = direct.score(given)
    typer.echo(json.dumps(direct.scores_as_json(found)) if as_json else found)


def report(
    config: ConfigOrSae,
    activations: OfActivations = None,
    scores: OfScores = None,
    tokens: OfTokens = None,
    identity: OfIdentity = None,
    out: OutUri = None,
    overrides: Overrides = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Write the report, and print its path.

    Of CONFIG that is done after what it needs. Of an SAE_URI, be it trained or imported, ACTIVATIONS_URI and SCORES_URI
    are enough; --set takes settings of report.
    """
    sae = config if activations is None else sae_at(config, storage)
    given = Given(sae, activations, tokens, None, None, out, storage, tuple(overrides or ()))
    if activations is None:
        given.require_nothing_beside("report")
        if identity is not None:
            raise InputError("--identity is for an SAE that is given by its URI: saemill report SAE_URI ACTIVATIONS_URI.")
        run_until("report", config, overrides, storage, as_json)
        return
    if scores is None:
        raise InputError("SCORES_URI is missing, which saemill score SAE_URI ACTIVATIONS_URI prints: it comes last.")
    with stdout_kept_clean():
        found = direct.report(given, scores, identity)
    typer.echo(json.dumps({"report": found}) if as_json else f"{found}/index.html")


def status(config: ConfigPath, overrides: Overrides = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """Tell which results exist and how far an unfinished run is.

    The run may be going on meanwhile, or it may have been killed.
    """
    stages = status_of(load_config(config, overrides or (), storage))
    if as_json:
        typer.echo(json.dumps({stage.result: dataclasses.asdict(stage) for stage in stages}))
    else:
        typer.echo("\n".join(describe_status(stage) for stage in stages))

"""The command ``publish``."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console

from flows.commands.options import AsJson
from flows.console import listening, stdout_kept_clean
from tasks.errors import InputError

if TYPE_CHECKING:
    from tasks.publish.build import BuiltFolder, Target
    from tasks.publish.hub_push import PushedRepo
    from tasks.publish.neuronpedia.push import PushedSets


def publish(
    given: Annotated[str, typer.Argument(metavar="SAE[,SAE...]|DIR", help="With --to SAE directories, else what it built.")],
    to: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="What to build: hf,neuronpedia,saelens-yaml,circuit-tracer, some of them."),
    ] = None,
    scores: Annotated[
        str | None, typer.Option(metavar="URI[,URI...]", help="Scores of the SAEs, as saemill score prints.")
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="A folder, empty or not there yet.")] = None,
    name: Annotated[
        str | None, typer.Option(metavar="[ORG/]NAME", help="Of the release; with ORG of the hub repository.")
    ] = None,
    weights_license: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="Of the weights, as the hub calls it: apache-2.0.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="The model on the hub, where the SAE calls it otherwise.")
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, max=127, help="Of the model. Left out: as its configuration says, if it is at hand.")
    ] = None,
    neuronpedia_model: Annotated[
        str | None, typer.Option(metavar="ID", help="The model on Neuronpedia. Left out: the last part of its name.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="WHERE", help="hf:ORG/NAME or neuronpedia[:http://localhost:3000].")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a set on Neuronpedia that another folder began: ask what it has.")
    ] = False,
    settle: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, max=600, help="How long a call without an answer may be at work there."),
    ] = 300.0,
    as_json: AsJson = False,
) -> None:
    """Build what publishes SAEs, from their stored scores, into a folder; with --push, send it. Else nothing leaves here.

    hf is a hub repository that saemill, SAELens, sparsify and circuit-tracer load, with a card; neuronpedia is its upload
    calls and export files; saelens-yaml is an entry for SAELens' registry. Give a killed command again, and it goes on. Keys
    come from NEURONPEDIA_API_KEY (or a file named by NEURONPEDIA_API_KEY_FILE) and HF_TOKEN.
    """
    if to is None and push is None:
        raise InputError("Say what to build of SAEs with --to, or where to send a built folder with --push.")
    options: dict[str, object] = {"scores": scores, "out": out, "name": name, "license": weights_license}
    options |= {"model": model, "layers": layers, "neuronpedia_model": neuronpedia_model}
    built = None if to is None else _built(given, _listed(to), options)
    if to is None and (idle := next((each for each, value in options.items() if value is not None), None)):
        raise InputError(f"--{idle.replace('_', '-')} is for building; say what to build with --to.")
    pushed = None if push is None else _pushed(built.uri if built else given, push, resume, settle)
    if as_json:
        typer.echo(json.dumps({"built": built and asdict(built), "pushed": pushed and asdict(pushed)}))
        return
    for line in [*(described_folder(built) if built else ()), *(described_push(pushed) if pushed else ())]:
        typer.echo(line)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _built(given: str, to: list[str], options: dict[str, object]) -> "BuiltFolder":
    from tasks.publish.build import TARGETS, PublishOrder, build  # only here, so that the command line starts without torch

    unknown = next((each for each in to if each not in TARGETS), None)
    if unknown is not None or not to:
        raise InputError(f"--to is {unknown or 'empty'!r}, but must be of {', '.join(TARGETS)}, separated by commas.")
    for each in ("scores", "out"):
        if options[each] is None:
            raise InputError(
                f"--to builds from stored scores into a folder: say --scores URI and --out DIR ({each} is missing)."
            )
    order = PublishOrder(
        saes=_listed(given),
        to=cast("list[Target]", to),
        **{**options, "scores": _listed(str(options["scores"]))},  # type: ignore[arg-type]
    )
    with listening(Console(stderr=True)) as listener, stdout_kept_clean():
        return build(order, listener)


def _pushed(folder: str, where: str, resume: bool, settle: float) -> "PushedSets | PushedRepo":
    from tasks.publish.pushing import push

    with listening(Console(stderr=True)) as listener, stdout_kept_clean():
        return push(folder, where, listener, resume=resume, settle_s=settle)


def described_folder(found: "BuiltFolder") -> list[str]:
    """Where it is, what it holds, and what could not be put there."""
    earlier = " (built earlier)" if found.earlier else ""
    pages = [f"Neuronpedia {place}: {n:,} latents that fire" for place, n in found.latents.items()]
    return [f"{found.uri}: {found.files:,} files, {found.bytes:,} bytes{earlier}", *pages, *found.refused]


def described_push(found: "PushedSets | PushedRepo") -> list[str]:
    """Where it is now."""
    told = asdict(found)
    if "tag" in told:
        return [f"{told['url']} at {told['tag']}{' (pushed earlier)' if told['earlier'] else ''}"]
    return [f"{told['server']} has {told['latents']:,} latents", *told["pages"]]

"""The command line: ``saemill run|harvest|train|score|report|sweep|status|verify|gc|repair|serve``, what helps to begin:
``init|settings|hooks|architectures``, and what moves data: ``export|import|encode|export-activations``.

Results go to stdout, everything else to stderr. Exit codes: 0 done; 2 what was given is wrong or damaged (one sentence);
130 and 143 stopped by SIGINT and SIGTERM, which end serve with 0, as it has no other end; 1 anything else, such as what
verify found.
"""

import contextlib
import dataclasses
import glob
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from typer.exceptions import TyperException

from flows import direct
from flows.config import PipelineConfig, load_config
from flows.console import OnConsole, listening, logged_to, on_one_line, say, stdout_kept_clean
from flows.direct import Given
from flows.in_process import called, run_in_process
from flows.interchange import encode, export_sae, import_sae
from flows.pipeline import Result, StageName
from flows.status import describe_status, status_of
from flows.sweep import SweepResult, run_sweep
from flows.sweep import described as described_sweep
from tasks.errors import ArtifactError, InputError, SaemillError
from tasks.harvest.export import CONTEXT, SplitName
from tasks.harvest.formats import FormatName

# Libraries that would write over the progress bars; each still shows its errors.
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "DO_NOT_TRACK": "1",
}


def _complete_setting(incomplete: str) -> list[str]:
    from flows.settings import completed

    return completed(incomplete)


def _complete_group(incomplete: str) -> list[str]:
    return [name for name in PipelineConfig.model_fields if name.startswith(incomplete)]


def _complete_config(incomplete: str) -> list[str]:
    folder, _, name = incomplete.rpartition("/")
    found = Path(folder or ("/" if incomplete.startswith("/") else ".")).glob(f"{glob.escape(name)}*")
    prefix = incomplete.removesuffix(name)
    return sorted(f"{prefix}{path.name}{'/' if path.is_dir() else ''}" for path in found if _may_hold_settings(path))


def _may_hold_settings(path: Path) -> bool:
    return not path.name.startswith(".") and (path.is_dir() or path.suffix in (".yaml", ".yml"))


ConfigPath = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG", help="YAML file of settings, such as configs/demo.yaml.", autocompletion=_complete_config
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change a setting, such as sae.k=16. May be given several times; saemill settings lists them.",
        autocompletion=_complete_setting,
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(metavar="URI", help="Root of all results: a folder or s3://bucket/prefix. Same as --set storage=URI."),
]
ActivationsUri = Annotated[
    str, typer.Argument(metavar="URI", help="An activations directory, as saemill harvest prints it.")
]
ConfigOrSae = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG|SAE_URI",
        help="YAML file of settings, or an SAE directory, as saemill train or saemill import prints it.",
        autocompletion=_complete_config,
    ),
]
OfActivations = Annotated[
    str | None, typer.Argument(metavar="[ACTIVATIONS_URI]", help="With SAE_URI: an activations directory.")
]
OfScores = Annotated[str | None, typer.Argument(metavar="[SCORES_URI]", help="With SAE_URI: its scores.")]
OfTokens = Annotated[
    str | None, typer.Option("--tokens", metavar="URI", help="With SAE_URI: the tokens that were harvested, for their text.")
]
ReadHook = Annotated[
    str | None, typer.Option("--hook", metavar="HOOK", help="With SAE_URI: the hook that it reads. Left out: as it says.")
]
RebuiltHook = Annotated[
    str | None, typer.Option("--target-hook", metavar="HOOK", help="With SAE_URI: the hook that a transcoder rebuilds.")
]
OutUri = Annotated[
    str | None,
    typer.Option("--out", metavar="URI", help="With SAE_URI: where to. Left out: beside the activations, by its content."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, last, on stdout.")]

app = typer.Typer(
    help="From text to published, scored sparse-autoencoder features. Every command can be stopped and given again.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Stopped(BaseException):
    """SIGINT or SIGTERM came; not an Exception, so that nothing on the way takes it for a failure."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    arguments = sys.argv[1:] if arguments is None else arguments
    with _stoppable():
        sys.exit(exit_code(lambda: app(arguments, prog_name="saemill", standalone_mode=False), arguments))


def exit_code(call: Callable[[], int | None], arguments: list[str]) -> int:
    """The exit code of what ``arguments`` ask for; errors that are meant for the user are told in a sentence."""
    try:
        return call() or 0
    except TyperException as error:
        _complain(f"{error.format_message()} See saemill --help.")
        return error.exit_code
    except SaemillError as error:
        # Ray wraps what its workers raise; the cause is the sentence, the wrapper a traceback.
        _complain(str(getattr(error, "cause", error)))
        return 2 if isinstance(error, InputError | ArtifactError) else 1
    except Stopped as stopped:
        _complain(f"Stopped. The same command goes on from here: saemill {shlex.join(arguments)}")
        return stopped.exit_code


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Raise ``Stopped`` on SIGINT and SIGTERM, unless whoever started this process had them ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(number)


def _complain(sentence: str) -> None:
    say(Console(stderr=True), f"saemill: {on_one_line(sentence)}")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"saemill {version('saemill')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that come before the command."""


@app.command()
def run(config: ConfigPath, overrides: Overrides = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """Run the whole pipeline and print the path of its report. What is finished is not done again."""
    _run_until("report", config, overrides, storage, as_json)


@app.command()
def harvest(config: ConfigPath, overrides: Overrides = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """Write the model's activations, and print where they are."""
    _run_until("harvest", config, overrides, storage, as_json)


@app.command()
def train(config: ConfigPath, overrides: Overrides = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """Train the SAE, after what it needs, and print where it is."""
    _run_until("train", config, overrides, storage, as_json)


@app.command()
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
    given = Given(config, activations, tokens, hook, target_hook, out, storage, tuple(overrides or ()))
    if activations is None:
        given.require_nothing_beside("score")
        _run_until("score", config, overrides, storage, as_json)
        return
    with stdout_kept_clean():
        found = direct.score(given)
    typer.echo(json.dumps(direct.scores_as_json(found)) if as_json else found)


@app.command()
def report(
    config: ConfigOrSae,
    activations: OfActivations = None,
    scores: OfScores = None,
    tokens: OfTokens = None,
    out: OutUri = None,
    overrides: Overrides = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Write the report, and print its path.

    Of CONFIG that is done after what it needs. Of an SAE_URI, be it trained or imported, ACTIVATIONS_URI and SCORES_URI
    are enough; --set takes settings of report.
    """
    given = Given(config, activations, tokens, None, None, out, storage, tuple(overrides or ()))
    if activations is None:
        given.require_nothing_beside("report")
        _run_until("report", config, overrides, storage, as_json)
        return
    if scores is None:
        raise InputError("SCORES_URI is missing, which saemill score SAE_URI ACTIVATIONS_URI prints: it comes last.")
    with stdout_kept_clean():
        found = direct.report(given, scores)
    typer.echo(json.dumps({"report": found}) if as_json else f"{found}/index.html")


@app.command()
def sweep(config: ConfigPath, overrides: Overrides = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """Train many SAEs in one pass over the activations, after what they need, and print how they compare and the page."""
    loaded = load_config(config, overrides or (), storage)
    with stdout_kept_clean():
        found = _swept_recorded(loaded) if os.environ.get("PREFECT_API_URL") else _swept(loaded)
    typer.echo(json.dumps(dataclasses.asdict(found)) if as_json else described_sweep(found))


@app.command()
def status(config: ConfigPath, overrides: Overrides = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """Tell which results exist and how far an unfinished run is."""
    stages = status_of(load_config(config, overrides or (), storage))
    if as_json:
        typer.echo(json.dumps({stage.result: dataclasses.asdict(stage) for stage in stages}))
    else:
        typer.echo("\n".join(describe_status(stage) for stage in stages))


@app.command()
def hooks(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder, .gguf file, package that carries one, or hub id.")
    ],
    match: Annotated[str, typer.Option(metavar="TEXT", help="Only hooks whose name contains this.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the modules of a model that can be harvested: name, width, depth (order of the first call) and kind."""
    from flows.hooks import listed, show

    with stdout_kept_clean():
        found = listed(model, match)
    if as_json:
        typer.echo(json.dumps({"model": model, "hooks": [dataclasses.asdict(hook) for hook in found]}))
    else:
        show(found, Console())


@app.command()
def architectures(as_json: AsJson = False) -> None:
    """List the architectures that sae.arch may name, and the settings of sae that each reads."""
    from flows.architectures import described, show

    if as_json:
        typer.echo(json.dumps({"architectures": described()}))
    else:
        show(Console())


@app.command()
def init(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A folder, .gguf file, package that carries one, or hub id.")
    ],
    text: Annotated[
        str, typer.Option(metavar="SOURCE", help="Path, glob, folder or s3:// URI of text, or a Hugging Face dataset.")
    ],
    column: Annotated[str, typer.Option(metavar="NAME", help="Column or JSON key that holds the text.")] = "text",
    hook: Annotated[
        str | None, typer.Option(metavar="HOOK", help="Left out: the residual stream at two fifths of the depth.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Not there yet. Left out: named after the model, in this folder.")
    ] = None,
    storage: Annotated[str, typer.Option(metavar="URI", help="Root of all results.")] = "runs",
) -> None:
    """Write a commented configuration for your own model and text, with sizes that fit them, and print its path."""
    from flows.init import written

    with stdout_kept_clean():
        path = written(model, text, column, hook, out, storage)
    typer.echo(path)
    say(Console(stderr=True), f"saemill run {shlex.quote(str(path))}")


@app.command()
def settings(
    group: Annotated[
        str, typer.Argument(metavar="GROUP", help="Only these, such as sae or sae.k.", autocompletion=_complete_group)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the settings that a configuration or --set may name: kind, bounds, default and meaning."""
    from flows.settings import listed, show

    found = listed(group)
    if as_json:
        typer.echo(json.dumps({"settings": [dataclasses.asdict(setting) for setting in found]}))
    else:
        show(found, Console())


@app.command()
def verify(uri: ActivationsUri, as_json: AsJson = False) -> None:
    """Re-read everything in an activations directory and name what is damaged, missing or surplus (exit code 1)."""
    from flows.lake import described_verification, verification_as_json, verified

    found = verified(uri)
    typer.echo(json.dumps(verification_as_json(found)) if as_json else described_verification(found))
    raise typer.Exit(1 if found.findings else 0)


@app.command()
def gc(
    uri: ActivationsUri,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove rows that nothing names and half-written files, older than a day, from an activations directory."""
    from flows.lake import collection_as_json, described_collection
    from tasks.harvest.gc import gc

    found = gc(uri, dry_run=dry_run)
    typer.echo(json.dumps(collection_as_json(found)) if as_json else described_collection(found))


@app.command()
def repair(config: ConfigPath, overrides: Overrides = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """Harvest the damaged shards of a configuration's activations again, and only those (exit code 1: they differ)."""
    from flows.lake import described_repair, repair_as_json, repaired

    loaded = load_config(config, overrides or (), storage)
    with stdout_kept_clean():
        found = repaired(loaded, lambda: run_in_process(loaded, "harvest"))
    typer.echo(json.dumps(repair_as_json(found)) if as_json else described_repair(found))
    raise typer.Exit(1 if found.identical is False else 0)


@app.command()
def export_activations(
    uri: ActivationsUri,
    file_format: Annotated[
        FormatName, typer.Option("--format", help="Parquet with lists, safetensors, or a Hugging Face dataset.")
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="A folder or s3://bucket/prefix, empty or not there yet.")],
    hook: Annotated[str | None, typer.Option(metavar="HOOK", help="Which hook, where there are several.")] = None,
    split: Annotated[SplitName, typer.Option(help="Which rows.")] = "train",
    context: Annotated[
        int, typer.Option(metavar="N", min=1, max=65536, help="Activations per row of hf; SAELens' context_size.")
    ] = CONTEXT,
    as_json: AsJson = False,
) -> None:
    """Write one hook's activations for tools that want lists, tensors or a dataset, and print where they are."""
    from flows.lake import described_export, exported

    found = exported(uri, out, file_format, hook, split, context)
    typer.echo(json.dumps(dataclasses.asdict(found)) if as_json else described_export(found))


app.command("export")(export_sae)
app.command("import")(import_sae)
app.command("encode")(encode)


@app.command()
def serve(
    config: Annotated[
        str, typer.Option(metavar="CONFIG", help="What the forms of the deployments pipeline and sweep begin with.")
    ] = "configs/demo.yaml",
    nightly: Annotated[
        str, typer.Option(metavar="CONFIG", help="Settings of the deployment nightly.")
    ] = "configs/nightly.yaml",
    cron: Annotated[
        str | None, typer.Option(help="When nightly starts. Left out: as edited in the UI, at first '17 2 * * *'.")
    ] = None,
    timezone: Annotated[str, typer.Option(help="Time zone of --cron.")] = "Europe/London",
    port: Annotated[int, typer.Option(min=1, max=65534, help="Port of the Prefect server, on loopback only.")] = 4200,
    server: Annotated[str | None, typer.Option(metavar="URL", help="Use the Prefect server that runs there.")] = None,
    storage: Storage = None,
) -> None:
    """Start a Prefect server with the deployments pipeline, sweep and nightly, and run what is started there."""
    from flows.serve import ServeOptions, serve

    serve(ServeOptions(config, nightly, cron, timezone, storage, port, server))


def _run_until(until: StageName, path: str, overrides: list[str] | None, storage: str | None, as_json: bool) -> None:
    config = load_config(path, overrides or (), storage)
    with stdout_kept_clean():
        result = _recorded(config, until) if os.environ.get("PREFECT_API_URL") else run_in_process(config, until)
    typer.echo(json.dumps(dataclasses.asdict(result)) if as_json else _printed(result, until))


def _swept(config: PipelineConfig) -> SweepResult:
    console = Console(stderr=True)
    with listening(console) as listener, logged_to(OnConsole(console)):
        return run_sweep(config, called(console, listener), lambda step, sweep: step(sweep, listener))


def _swept_recorded(config: PipelineConfig) -> SweepResult:
    _require_server()
    from flows.on_prefect import recorded_sweep

    done = recorded_sweep(config)
    assert isinstance(done, SweepResult)  # a state of failure is raised as the error that it holds
    return done


def _require_server() -> None:
    from flows.password import require_welcome
    from flows.proxies import spare_loopback

    api = os.environ["PREFECT_API_URL"].rstrip("/")
    spare_loopback(api)
    require_welcome(api, "PREFECT_API_URL")


def _recorded(config: PipelineConfig, until: StageName) -> Result:
    """Run as a Prefect flow, recorded by the server at PREFECT_API_URL."""
    _require_server()
    from flows.on_prefect import recorded_pipeline  # only here: without a server Prefect is not even imported

    done = recorded_pipeline(config, until)
    assert isinstance(done, Result)  # a state of failure is raised as the error that it holds
    return done


def _printed(result: Result, until: StageName) -> str:
    if until == "report":
        return f"{result.report}/index.html"
    return str({"harvest": result.activations, "train": result.sae, "score": result.scores}[until])


if __name__ == "__main__":
    main()

"""How a command runs a configuration's pipeline: plainly, or recorded by the Prefect server that PREFECT_API_URL names."""

import json
import os

import typer

from flows.config import PipelineConfig, load_config
from flows.console import stdout_kept_clean
from flows.in_process import run_in_process
from flows.pipeline import Result
from flows.stages import stages


def run_until(until: str, path: str, overrides: list[str] | None, storage: str | None, as_json: bool) -> None:
    """Run the pipeline of a configuration up to a stage, and print where that stage's result is."""
    config = load_config(path, overrides or (), storage)
    with stdout_kept_clean():
        result = _recorded(config, until) if os.environ.get("PREFECT_API_URL") else run_in_process(config, until)
    typer.echo(json.dumps(result.as_json()) if as_json else _printed(result, config, until))


def require_server(api: str) -> None:
    """Refuse before any work where no Prefect server at this URL takes what it is shown; ``PREFECT_API_URL`` gave it.

    Raises:
        InputError: none answers there, or it wants another password.
    """
    from flows.password import require_welcome
    from flows.proxies import spare_loopback

    api = api.rstrip("/")
    spare_loopback(api)
    require_welcome(api, "PREFECT_API_URL")


def _recorded(config: PipelineConfig, until: str) -> Result:
    require_server(os.environ["PREFECT_API_URL"])
    from flows.on_prefect import recorded_pipeline  # only here: without a server Prefect is not even imported

    done = recorded_pipeline(config, until)
    assert isinstance(done, Result)  # a state of failure is raised as the error that it holds
    return done


def _printed(result: Result, config: PipelineConfig, until: str) -> str:
    made = next(stage.result for stage in stages(config) if stage.name == until)
    return f"{result.by_result[made]}/index.html" if until == "report" else str(result.by_result[made])

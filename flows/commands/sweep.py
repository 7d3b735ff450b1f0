"""The command ``sweep``."""

import dataclasses
import json
import os

import typer

from flows.commands.options import AsJson, ConfigPath, Overrides, Storage
from flows.commands.running import require_server
from flows.config import PipelineConfig, load_config
from flows.console import stdout_kept_clean
from flows.in_process import told
from flows.sweep import SweepResult, described, run_sweep


def sweep(config: ConfigPath, overrides: Overrides = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """Train many SAEs in one pass over the activations, after what they need, and print how they compare and the page.

    sweep.archs, d_sae, k, l1_coefficient, lr and seeds are lists, all combinations of which are trained. Each SAE comes to
    lie where saemill train would write it. What is there is not trained again.
    """
    loaded = load_config(config, overrides or (), storage)
    with stdout_kept_clean():
        found = _recorded(loaded) if os.environ.get("PREFECT_API_URL") else _plain(loaded)
    typer.echo(json.dumps(dataclasses.asdict(found)) if as_json else described(found))


def _plain(config: PipelineConfig) -> SweepResult:
    with told() as (call, listener):
        return run_sweep(config, call, lambda step, sweep: step(sweep, listener))


def _recorded(config: PipelineConfig) -> SweepResult:
    require_server(os.environ["PREFECT_API_URL"])
    from flows.on_prefect import recorded_sweep

    done = recorded_sweep(config)
    assert isinstance(done, SweepResult)  # a state of failure is raised as the error that it holds
    return done

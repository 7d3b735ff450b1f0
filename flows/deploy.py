"""Creates the deployments on a Prefect server whose workers make the runs: ``python -m flows.deploy``.

They are those of ``saemill serve``. What the server has already stays as its users left it: a worker runs this whenever it
starts, and must not put an edited schedule back.
"""

import sys
from collections.abc import Collection, Iterable
from typing import Annotated

import typer
from prefect.deployments.runner import DeploymentApplyError, RunnerDeployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL

from flows.automations import offer_automations
from flows.commands.options import Overrides, Storage
from flows.commands.running import require_server
from flows.configurations import load_stored
from flows.defaults import CONFIGURATION, CRON, NIGHTLY, TIMEZONE
from flows.deployments import check_schedule, exists, offered
from flows.exits import exit_code
from flows.form import refuse_plain_secrets
from tasks.errors import InputError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Put these back to what the code says, schedules too.")
    ] = None,
    pool: Annotated[str, typer.Option(metavar="NAME", help="The work pool whose workers make the runs.")] = "saemill",
    storage: Storage = None,
    overrides: Overrides = None,
) -> None:
    """Create those deployments that the Prefect server at PREFECT_API_URL does not have, and print their names."""
    if (api := PREFECT_API_URL.value()) is None:
        raise InputError("PREFECT_API_URL is not set. Give the API of a Prefect server, such as http://127.0.0.1:4200/api.")
    require_server(api)
    for name in deploy(_of_the_cluster(storage, overrides or []), pool, names or ()):
        typer.echo(name)
    offer_automations(load_stored(NIGHTLY, overrides or [], storage).notify, check_schedule(CRON, TIMEZONE))


def _of_the_cluster(storage: str | None, overrides: list[str]) -> list[RunnerDeployment]:
    """The deployments, once the configurations that they name are found to be fit for this storage and these settings."""
    config, _ = (load_stored(name, overrides, storage) for name in (CONFIGURATION, NIGHTLY))
    refuse_plain_secrets(overrides)
    beside = {"storage": config.storage} if storage is not None else {}
    if overrides:
        beside["overrides"] = "\n".join(overrides)
    return offered(CONFIGURATION, NIGHTLY, beside, CRON, TIMEZONE)


def deploy(deployments: Iterable[RunnerDeployment], pool: str, again: Collection[str] = ()) -> list[str]:
    """Create what the server does not have, and put back what ``again`` names; the names of what was created or put back.

    Raises:
        InputError: no deployment has a name that ``again`` holds, or the server refuses one, such as for want of the pool.
    """
    known = {deployment.name: deployment for deployment in deployments}
    if unknown := set(again) - set(known):
        raise InputError(f"There is no deployment {min(unknown)!r}. Take one of {', '.join(known)}.")
    changed = [name for name, deployment in known.items() if name in again or not exists(deployment)]
    for name in changed:
        try:
            known[name].apply(work_pool_name=pool)
        except (DeploymentApplyError, PrefectHTTPStatusError) as error:
            raise InputError(f"The Prefect server refuses the deployment {name!r}: {error}") from None
    return changed


if __name__ == "__main__":
    sys.exit(exit_code(lambda: app(prog_name="python -m flows.deploy", standalone_mode=False), sys.argv[1:]))

"""Runs what is started of the deployments that this process serves, until it is stopped."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterable

from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner

POLL_S = 0.5


def serve_deployments(deployments: Iterable[RunnerDeployment], server_ended: Callable[[], bool]) -> None:
    """Offer the deployments and run what is started, one run at a time, until SIGINT or SIGTERM, or the server's end.

    A run that is under way then is cancelled; the same settings go on from what it wrote.
    """
    # The schedule is the user's: a restart of this process must not switch it off, as it would by default.
    runner = Runner(limit=1, pause_on_shutdown=False)
    for deployment in deployments:
        runner.add_deployment(deployment)
    asyncio.run(_run_until_signal(runner, server_ended))


async def _run_until_signal(runner: Runner, server_ended: Callable[[], bool]) -> None:
    """``Runner.start``, but stopped in order: its own handler of SIGTERM never awaits its own stop (prefect 3.8.8)."""
    polling = asyncio.create_task(runner.start())
    await asyncio.sleep(0)  # lets start() set its handler, so that ours come after
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopped, alone = asyncio.create_task(stop.wait()), asyncio.create_task(_until(server_ended))
    await asyncio.wait({polling, stopped, alone}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set() and runner.started:
        await runner.astop()
    elif stop.is_set() or alone.done():  # without a server, nobody can be told that runs are cancelled
        polling.cancel()
    stopped.cancel()
    alone.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await polling


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(POLL_S)

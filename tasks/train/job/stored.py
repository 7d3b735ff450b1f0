"""What Ray Train keeps beside the checkpoints of a run, read and mended where a kill has left it unusable."""

import json
from importlib.metadata import version

from tasks.errors import InputError
from tasks.storage.base import ObjectStore
from tasks.storage.objects import open_store
from tasks.train.checkpoint_names import CHECKPOINTS, prune

_SNAPSHOT = f"{CHECKPOINTS}/checkpoint_manager_snapshot.json"
_MARKER = f"{CHECKPOINTS}/.validate_storage_marker"


def require_shared(out: str) -> None:
    """For workers: refuse storage that is not the one to which Ray Train, on another machine, has written its marker.

    Raises:
        InputError: there is no marker.
    """
    store = open_store(out)
    if store.head(_MARKER) is None:
        raise InputError(
            f"A training worker does not find {store.uri}/{_MARKER}, which was written on another machine. Set storage to a "
            "folder that all machines of the Ray cluster share, or to an s3:// URI."
        )


def drop_unusable_snapshot(out: str) -> None:
    """Remove Ray Train's list of checkpoints where a kill cut it short or it names what is gone.

    Ray writes it in place and refuses to start over a damaged one. Checkpoints are found without it.
    """
    store = open_store(out)
    try:
        names = _listed(store)
        usable = all(any(store.list(f"{CHECKPOINTS}/{name}/")) for name in names)
    except FileNotFoundError:
        return
    except ValueError:
        usable = False
    if not usable:
        store.delete(_SNAPSHOT)


def drop_forgotten_checkpoints(store: ObjectStore, keep: int) -> None:
    """Remove checkpoints that a run has gone beyond and that Ray Train does not know of, but the newest ``keep``.

    Ray Train hears of a checkpoint seconds after it was written. One that it has not heard of when a worker is killed is
    gone on from all the same, and Ray Train would never remove it.
    """
    try:
        listed = _listed(store)
    except FileNotFoundError:
        listed = set()
    except ValueError:
        return  # it is being written
    prune(store, f"{CHECKPOINTS}/", keep, spare=listed)


def _listed(store: ObjectStore) -> set[str]:
    """Names of the checkpoints that Ray Train knows of.

    Raises:
        FileNotFoundError: it has written no list.
        ValueError: this Ray cannot read the list.
    """
    snapshot = json.loads(store.get(_SNAPSHOT))
    try:
        if snapshot["ray_version"] == version("ray"):
            return {result["checkpoint_dir_name"] for result in snapshot["checkpoint_results"]}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{store.uri}/{_SNAPSHOT} is not Ray Train's: {error}") from None
    raise ValueError(f"{store.uri}/{_SNAPSHOT} is another Ray's.")

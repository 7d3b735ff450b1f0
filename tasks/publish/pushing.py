"""``saemill publish DIR --push WHERE``: a built folder, found whole, to where others find it."""

import hashlib

from tasks.errors import InputError
from tasks.progress import Listener
from tasks.publish import hub_push
from tasks.publish.checked import require_whole
from tasks.publish.hub_push import PushedRepo
from tasks.publish.neuronpedia import push as neuronpedia_push
from tasks.publish.neuronpedia.client import client
from tasks.publish.neuronpedia.push import SETTLE_S, PushedSets
from tasks.storage.artifacts import MANIFEST
from tasks.storage.objects import open_store, require


def push(
    uri: str, where: str, listener: Listener, *, resume: bool = False, settle_s: float = SETTLE_S
) -> PushedSets | PushedRepo:
    """Send what is not there yet.

    Args:
        uri: the folder, of this machine, as it keeps a ledger of what was sent.
        where: hf:ORG/NAME, neuronpedia, or neuronpedia:URL for another server of it.
        listener: is told how far it is.
        resume: as in ``neuronpedia.push.push``.
        settle_s: as there.

    Raises:
        InputError: ``where`` is no such place, the folder was not built for it, or the server refuses.
        ArtifactError: the folder is unfinished or damaged.
        SaemillError: the server does not answer.
    """
    kind, _, rest = where.partition(":")
    if kind not in ("hf", "neuronpedia"):
        raise InputError(
            f"--push is {where!r}; hf:ORG/NAME, neuronpedia or neuronpedia:http://localhost:3000 were expected."
        )
    store = open_store(uri)
    folder = store.path()
    if folder is None:
        raise InputError(f"{uri} cannot be pushed from: copy it to a folder of this machine, which keeps what was sent.")
    server = client(rest) if kind == "neuronpedia" else None
    manifest = require_whole(store.uri)
    build = hashlib.sha256(require(store, MANIFEST)).hexdigest()
    if server is None:
        return hub_push.push(folder, list(manifest["objects"]), build, rest)
    if not manifest["latents"]:
        raise InputError(f"{uri} has no calls for Neuronpedia; build it with --to neuronpedia.")
    return neuronpedia_push.push(folder, build, server, listener, resume=resume, settle_s=settle_s)

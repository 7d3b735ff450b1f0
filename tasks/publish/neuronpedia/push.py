"""A built folder's calls, sent so that the server has each latent once, whatever dies in between.

Neuronpedia never overwrites a feature, but a batch that comes twice leaves its activations there twice. So a batch whose
answer is not known is never simply sent again: the server is asked which of its features it has, and only others are sent.
A call that the server still works at must not be taken for one that it never got, so the question comes only when so much
time has passed that no call can still be at work.
"""

import gzip
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import ArtifactError, InputError, SaemillError
from tasks.progress import Listener, Progress
from tasks.publish.ledger import PushLedger, opened
from tasks.publish.neuronpedia.client import TIMEOUT_S, TRIES, NeuronpediaClient, NoAnswerError, RefusedError, wait_s

INDEX = "neuronpedia/calls.json"
LEDGER = "pushed.jsonl"
SETTLE_S = TIMEOUT_S
"""After which a call is taken to be no longer at work: as long as this end waits for its answer."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PushedSets:
    """What a server has now."""

    server: str
    latents: int
    pages: tuple[str, ...]
    """Of the SAEs."""


@dataclass(frozen=True, slots=True)
class _CallSender:
    client: NeuronpediaClient
    ledger: PushLedger
    settle_s: float

    def settle(self, sent: float) -> None:
        """Wait until a call that was sent then can no longer be at work."""
        left = sent + self.settle_s - time.time()
        self.client.sleep(min(max(left, 0.0), self.settle_s))


def push(
    folder: Path,
    build: str,
    client: NeuronpediaClient,
    listener: Listener,
    *,
    resume: bool = False,
    settle_s: float = SETTLE_S,
) -> PushedSets:
    """Send what is not there yet.

    Args:
        folder: built and found whole.
        build: hash of its content, under which the ledger keeps what was sent.
        client: the server.
        listener: is told after each call.
        resume: take a set that is there already, of the same SAEs, for one's own, and ask what it has.
        settle_s: how long after it was sent a call without an answer may still be at work.

    Raises:
        InputError: the server refuses a call, or has a set of that name of other SAEs.
        SaemillError: it does not answer.
    """
    sets: list[Json] = json.loads((folder / INDEX).read_bytes())["sets"]
    total = sum(batch["latents"] for each in sets for batch in each["batches"])
    done = 0
    with opened(folder / LEDGER, {"to": client.base, "build": build}) as ledger:
        sender = _CallSender(client, ledger, settle_s)
        for each in sets:
            _make_set(sender, each, resume)
            for batch in each["batches"]:
                _send(sender, folder, batch)
                done += batch["latents"]
                listener(Progress("publish", done, total, "latents"))
    pages = tuple(f"{client.base}/{source}" for each in sets for source in each["pages"])
    return PushedSets(client.base, total, pages)


def _make_set(sender: _CallSender, entry: Json, resume: bool) -> None:
    body, ledger, client = entry["body"], sender.ledger, sender.client
    path = f"source-set/{body['modelId']}/{body['name']}"
    for attempt in range(TRIES):
        if ledger.done(path):
            return
        sent = ledger.in_doubt(path)
        if sent is not None:
            sender.settle(sent)
        there = client.read(path)
        if there is not None:
            _require_own(there, entry, path, known=sent is not None or resume)
            # Also where the making of the set was sent from here: another folder of the same SAEs may have been first.
            for batch in entry["batches"]:
                ledger.doubted(batch["file"])
            ledger.answered(path, there=True)
            return
        _make_model(sender, entry)
        try:
            _accepted(sender, "source-set/new", json.dumps(body).encode(), path)
        except NoAnswerError:
            client.sleep(wait_s(attempt))
        else:
            ledger.answered(path)
    raise _stays_away(client)


def _require_own(there: Any, entry: Json, path: str, known: bool) -> None:
    stated = str(there.get("description")) if isinstance(there, dict) else ""
    if entry["mark"] not in stated:
        raise InputError(
            f"Neuronpedia has a {path} already, of other SAEs than this one ({entry['mark']}); it never overwrites. Build "
            "again with another --name, such as one that ends with the version."
        )
    if not known:
        raise InputError(
            f"Neuronpedia has the {path} of this very SAE already, and {LEDGER} here knows nothing of it; give --resume to "
            "ask which latents are there and send the others."
        )


def _make_model(sender: _CallSender, entry: Json) -> None:
    """Make the model, unless the server knows it."""
    body, call = entry["model"], f"model/{entry['model']['id']}"
    for attempt in range(TRIES):
        if sender.ledger.done(call):
            return
        try:
            sender.client.post("model/new", json.dumps(body).encode())
        except NoAnswerError:
            sender.client.sleep(wait_s(attempt))
        except RefusedError as error:
            if "already" not in error.said:  # of this id, or, for another id, of this hub repository
                raise _refused(error, call) from None
            if error.status == 409:
                raise InputError(
                    f"Neuronpedia keeps this model under another id ({error.said}); build again and say it with "
                    "--neuronpedia-model."
                ) from None
            sender.ledger.answered(call, there=True)
        else:
            sender.ledger.answered(call)
    if not sender.ledger.done(call):
        raise _stays_away(sender.client)


def _send(sender: _CallSender, folder: Path, batch: Mapping[str, Any]) -> None:
    ledger, call = sender.ledger, batch["file"]
    if ledger.done(call):
        return
    body = json.loads(gzip.decompress((folder / call).read_bytes()))
    for attempt in range(TRIES):
        wanted = body["features"]
        sent = ledger.in_doubt(call)
        if sent is not None:
            sender.settle(sent)
            there = _there(sender.client, body)
            wanted = [each for each in wanted if each["index"] not in there]
        if not wanted:
            ledger.answered(call, there=True)
            return
        data = json.dumps({**body, "features": wanted}, ensure_ascii=False, separators=(",", ":")).encode()
        try:
            _accepted(sender, "feature/upload-batch", data, call)
        except NoAnswerError:
            sender.client.sleep(wait_s(attempt))
        else:
            ledger.answered(call)
            return
    raise _stays_away(sender.client)


def _there(client: NeuronpediaClient, body: Json) -> set[int]:
    """Which of a batch's latents the server has."""
    about = {"modelId": body["modelId"], "layer": body["source"], "maxActsToReturn": 1}
    asked = [{**about, "index": each["index"]} for each in body["features"]]
    found = client.read("features", json.dumps(asked).encode())
    return set(_indices(found, client))


def _indices(found: Any, client: NeuronpediaClient) -> Iterator[int]:
    if not isinstance(found, list):
        raise SaemillError(f"{client.base}/api/features answers with no list of features; nothing more was sent.")
    for each in found:
        try:
            yield int(each["index"])
        except (TypeError, KeyError, ValueError):
            raise ArtifactError(f"{client.base}/api/features answers with features without an index.") from None


def _accepted(sender: _CallSender, path: str, body: bytes, call: str) -> None:
    """Send a call; the ledger has it each time before it goes out."""
    try:
        sender.client.post(path, body, lambda: sender.ledger.sending(call))
    except RefusedError as error:
        raise _refused(error, call) from None


def _refused(error: RefusedError, what: str) -> SaemillError:
    if error.status in (401, 403):
        return InputError(f"Neuronpedia refuses the API key for {what} ({error}).")
    if error.status == 429:
        return SaemillError(f"Neuronpedia takes no more calls now ({error}). The same command goes on from here.")
    return InputError(f"Neuronpedia refuses {what} ({error}).")


def _stays_away(client: NeuronpediaClient) -> SaemillError:
    return SaemillError(f"{client.base} gives no answer. The same command goes on from here.")

"""``saemill match``: two versions of an SAE matched, and the directory in which tables and page of it lie."""

import hashlib
import re
from dataclasses import replace
from typing import Any

from rich.console import Console

from flows.console import OnConsole, listening, logged_to, say
from flows.direct import root_beside
from flows.preflight import check_storage
from tasks.identity.carry import file_names
from tasks.identity.match import MatchInputs, match, open_inputs
from tasks.identity.request import MatchRequest
from tasks.identity.stored import STAGE, TABLE, Line, summary_of
from tasks.report.identity import FILES, identity_page
from tasks.storage.artifacts import MANIFEST, address, require_manifest, write_manifest
from tasks.storage.claims import claim, sweep
from tasks.storage.objects import open_store

REQUEST = "match.json"


def matched(request: MatchRequest, line: Line | None, out: str | None, root: str | None) -> dict[str, Any]:
    """Match, unless that is done; what ``saemill match --json`` prints.

    Args:
        request: what to match.
        line: the ids of A's latents, where they have some.
        out: where the result comes to lie; None: below the root, with its content in its name.
        root: of results; None: that of the activations.

    Raises:
        InputError: something that was given is not there or does not fit, or ``out`` holds something else.
        ArtifactError: something is unfinished or damaged.
    """
    request = _absolute(request)
    content = request.content()
    out = open_store(out or _place(request, content, root)).uri
    check_storage(out)
    console, store = Console(stderr=True), open_store(out)
    tables = (TABLE, *(file_names(request.carry) if request.carry is not None else ()))
    inputs = None if summary_of(out) is not None else open_inputs(request, line)
    there = claim(store, REQUEST, content, [*tables, *FILES, MANIFEST], "match")
    sweep(store)
    say(console, f"match: {out}{' (finished earlier)' if MANIFEST in there else ''}")
    if inputs is None and request.permute_out is not None:
        require_manifest(request.permute_out)  # of a copy that was deleted since, it is not said that it is there
    if inputs is not None:
        _write(inputs, out, console)
    return {**(summary_of(out) or {}), "table": f"{out}/{TABLE}", "page": f"{out}/index.html"}


def _write(inputs: MatchInputs, out: str, console: Console) -> None:
    request = inputs.request
    with listening(console) as listener, logged_to(OnConsole(console)):
        found = match(inputs, listener)
    store, files = open_store(out), dict[str, dict[str, Any]]()
    for key, content in (*found.files.items(), *identity_page(found.summary, found.version)):
        store.put(key, content)
        files[key] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    facts = {"name": request.name, "version": request.version, "sae_sha256": found.sae_sha256}
    told = {"title": f"{request.name}: version {request.version}", "entry": "index.html", "summary": dict(found.summary)}
    write_manifest(out, {"format_version": 1, "stage": STAGE, **facts, **told, "files": files})


def _place(request: MatchRequest, content: dict[str, Any], root: str | None) -> str:
    name = re.sub(r"-[0-9a-f]{12}$", "", request.b.rpartition("/")[2])
    return address(root_beside(request.activations, root), STAGE, name, content)


def _absolute(request: MatchRequest) -> MatchRequest:
    """Directories by absolute URIs, as they are told in the result."""
    optional = {name: getattr(request, name) for name in ("ceiling", "previous", "permute_out")}
    given: dict[str, Any] = {name: open_store(uri).uri for name, uri in optional.items() if uri is not None}
    a, b, activations = (open_store(uri).uri for uri in (request.a, request.b, request.activations))
    return replace(request, a=a, b=b, activations=activations, **given)


def described(found: dict[str, Any]) -> str:
    """The shares in a few lines, and the page's path last."""
    of_a = ", ".join(f"{name} {found[name]:.1%}" for name in ("same", "drifted", "split", "died"))
    of_b = ", ".join(f"{name} {found[name]:.1%}" for name in ("merged", "born"))
    ceiling = "" if found["ceiling"] is None else f", another seed {found['ceiling']['cosine']:.2f}"
    lines = [
        f"of A's latents: {of_a}",
        f"of B's latents: {of_b}",
        f"median best decoder cosine {found['cosine']:.2f}, chance {found['null']:.2f}{ceiling}; {found['rows']:,} rows",
    ]
    if any(found["by_decoder_alone"].values()):
        alone = " and ".join(f"{n:,} of {side.upper()}'s" for side, n in found["by_decoder_alone"].items())
        lines.append(f"{alone} latents fire on fewer than {found['least_rows']} rows: of them the decoder alone decides")
    if permuted := found["permuted"]:
        exact = (
            f"codes equal to the bit on {permuted['rows']:,} rows"
            if not permuted["codes_differing"]
            else f"{permuted['codes_differing']:,} codes differ in last bits on {permuted['rows']:,} rows"
        )
        places = f"{permuted['at_their_places']:,} latents at A's indices, {permuted['elsewhere']:,} matched ones elsewhere"
        lines.append(f"{permuted['uri']}: {places}; {exact}")
    if carried := found["carried"]:
        lines.append(
            f"carried over: {carried['kept']:,} rows, {carried['recheck']:,} of them to be checked again; "
            f"{carried['dropped']:,} dropped"
        )
    return "\n".join([*lines, found["page"]])

"""The command that follows latents from one version of an SAE to the next: match."""

import json
from typing import Annotated

import typer

from flows.commands.options import AsJson, ReadHook, RebuiltHook, Storage
from flows.console import stdout_kept_clean
from flows.direct import roles_of_options
from tasks.harvest.export import SplitName

ROWS = 200_000
Version = Annotated[
    int | None, typer.Option("--version", metavar="N", min=1, max=2**31 - 1, help="Of B. Left out: A's and one more.")
]


def match(
    a: Annotated[str, typer.Argument(metavar="A", help="An SAE directory: the version before.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one: the version after, of the same hook.")],
    activations: Annotated[
        str, typer.Option("--activations", metavar="URI", help="Activations of that hook, over which codes are compared.")
    ],
    out: Annotated[
        str | None, typer.Option(metavar="URI", help="Where to. Left out: beside the activations, by its content.")
    ] = None,
    ceiling: Annotated[
        str | None,
        typer.Option(metavar="SAE_URI", help="A trained again with another seed: the most that can be hoped for."),
    ] = None,
    previous: Annotated[
        str | None, typer.Option(metavar="URI", help="The match whose B is A; its ids go on. Left out: A's are minted.")
    ] = None,
    carry: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Parquet or CSV with a column stable_id, to be carried over to B.")
    ] = None,
    permute_out: Annotated[
        str | None, typer.Option("--permute-out", metavar="URI", help="Write B with matched latents at A's indices.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="With which new ids begin. Left out: the name of A's directory.")] = None,
    version: Version = None,
    version_a: Annotated[
        int | None, typer.Option("--version-a", metavar="N", min=1, max=2**31 - 1, help="Of A. Left out: 1, or the line's.")
    ] = None,
    rows: Annotated[
        int, typer.Option(metavar="N", min=2, help="Compare codes over so many rows, if there are so many.")
    ] = ROWS,
    split: Annotated[SplitName, typer.Option(help="Which rows.")] = "eval",
    hook: ReadHook = None,
    target_hook: RebuiltHook = None,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Tell which latents of B are those of A, give them the same ids, and print the shares and the path of a page.

    same, drifted, split and died are shares of A's latents; merged and born are shares of B's.
    """
    from flows.identity import described, matched  # only here, so that the command line starts without torch
    from tasks.identity.request import MatchRequest, line_before

    with stdout_kept_clean():
        line, called, first, last = line_before(a, previous, name, version_a, version)
        request = MatchRequest(
            a=a,
            b=b,
            activations=activations,
            roles=roles_of_options(hook, target_hook),
            split=split,
            rows=rows,
            ceiling=ceiling,
            previous=previous,
            name=called,
            version_a=first,
            version=last,
            carry=carry,
            permute_out=permute_out,
        )
        found = matched(request, line, out, storage)
    typer.echo(json.dumps(found) if as_json else described(found))

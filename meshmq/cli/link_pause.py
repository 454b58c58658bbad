"""``meshmq link pause|resume``: nothing is pulled from a site for a while."""

from __future__ import annotations

from typing import Annotated

import typer

from meshmq.cli.options import (
    InsecureOption,
    JsonOption,
    MeshOption,
    Target,
    UrlOption,
    connected,
)
from meshmq.cli.output import emit, said, say

SiteArgument = Annotated[str, typer.Argument(metavar="SITE", help="The other site.")]


def pause(
    name: SiteArgument,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Pull nothing from another site any more, at all nodes of this one.

    No records and nothing that is live comes from there, and no new requests
    of ours go there, until 'meshmq link resume'. What is mirrored stays, and
    can be read. It holds over restarts, and for nodes that are away when they
    come back. The logs of that site do not come by a third one either. What the
    other site pulls from here goes on: say it there too if that is to stop.
    """
    with connected(Target(url, mesh, insecure, json)) as connection:
        done = connection.admin.pause_link(name)
    if json:
        emit(done)
    elif done["changed"]:
        say(f"the link with site {name} is paused: its mirrors stay as they are")
    else:
        say(f"the link with site {name} was paused already, by {said(done)}")


def resume(
    name: SiteArgument,
    url: UrlOption = None,
    mesh: MeshOption = "local",
    insecure: InsecureOption = False,
    json: JsonOption = False,
) -> None:
    """Pull from another site again, from where it was when the link was paused.

    At all nodes of this site. Nothing is left out but what retention has taken
    there meanwhile.
    """
    with connected(Target(url, mesh, insecure, json)) as connection:
        done = connection.admin.resume_link(name)
    if json:
        emit(done)
    else:
        say(f"the link with site {name} {'goes on' if done['changed'] else 'was not paused'}")

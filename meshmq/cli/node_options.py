"""Options of ``meshmq node``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshmq.limits import COPIES_MAX

DEFAULT_URL = "tcp://127.0.0.1:5757"

Name = Annotated[
    str | None,
    typer.Option(help=r"Name of this node. \[default: node-1, in a site the name of its host]"),
]
Mesh = Annotated[
    str | None, typer.Option(help=r"Name of the mesh it belongs to. \[default: local]")
]
Listen = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help=rf"Address to listen on; port 0 takes a free one. \[default: {DEFAULT_URL}]",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help=r"Directory of its log. \[default: $XDG_DATA_HOME/meshmq/NAME, "
        "or ~/.local/share/meshmq/NAME]",
    ),
]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure",
        help="Listen beyond this host without encryption or passwords; "
        "needs a mesh name other than local.",
    ),
]
NoMdns = Annotated[
    bool,
    typer.Option(
        "--no-mdns",
        help="Do not let programs find it by mDNS. A node of mesh local is found on this "
        "host only.",
    ),
]
Site = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Be one of several nodes: those of the same site find each other, and everything "
        r"is reachable from any of them. \[default: the node is alone]",
    ),
]
ListenNodes = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Address to listen on for other nodes of the site. "
        r"\[default: as --listen, with the next port]",
    ),
]
Peer = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL",
        help="Address where another node of the site listens for nodes; may be repeated. One "
        "that answers is enough, it tells of the others.",
    ),
]
Copies = Annotated[
    int | None,
    typer.Option(
        min=1, max=COPIES_MAX,
        help="So many nodes of the site have each of its streams, itself among them, where a "
        r"topic's policy says nothing else. \[default: 1]",
    ),
]  # fmt: skip
Check = Annotated[
    bool,
    typer.Option(
        "--check",
        help="Check the settings and read the whole log, then exit: 0 if all is well.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="TOML file with any of: name, mesh, listen, data, insecure, mdns, listen_nodes, "
        "peers, copies, site (or a table, \\[site], with its name). Options go first. Tables "
        "\\[\\[link]] say what is pulled from other sites: to (that site's name), endpoints (where "
        "its nodes listen for nodes), topics (patterns of what is pulled), exclude (of these, "
        "what is not), live (patterns of transient topics that come as they are published) and "
        "services (patterns of services that requests may ask there). SIGHUP reads the file "
        "again: links are changed at once, the rest with a restart.",
    ),
]

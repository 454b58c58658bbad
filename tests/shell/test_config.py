"""A node's file of settings: what is taken from it, and that each fault is told with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from meshmq import limits
from meshmq.cli.boundary import ConfigFaults
from meshmq.cli.config import _OF_LINK, read_config, settings_of
from meshmq.core.link_wish import LinkWish
from meshmq.errors import ConfigError

ALL = """\
mesh = "shop"
insecure = true
copies = 2
peers = ["tcp://10.0.0.12:5758"]

[site]
name = "eu"

[[link]]
to = "us"
endpoints = ["tcp://us-gw-1:5758", "tcp://[fd00::1]:5758"]
topics = ["orders.>", "audit.>"]  # what is pulled
exclude = ["orders.tmp.>"]
priority = ["audit.>", "orders.eu"]
since = "2024-11-01T00:00:00.25Z"

[[link]]
to = "ap"
endpoints = ["tcp://ap-gw:5758"]
topics = []
"""
LINKS = (
    LinkWish(
        "us",
        ("tcp://us-gw-1:5758", "tcp://[fd00::1]:5758"),
        ("orders.>", "audit.>"),
        ("orders.tmp.>",),
        priority=("audit.>", "orders.eu"),
        since_ns=1730419200_250000000,
    ),
    LinkWish("ap", ("tcp://ap-gw:5758",), (), ()),
)
LINK = '[[link]]\nto = "us"\nendpoints = ["tcp://127.0.0.1:1"]\ntopics = []\n'
"""A link in lines 3 to 6 of a file with a site; see ``faults``."""

COVERS_NOTHING = "covers no topic that the link pulls: 'topics' and 'exclude' say which those are"
NO_TIME = "is neither a time nor an age: write it like 2026-11-01T00:00:00Z, or like 7d, 12h or 30m"

ROOT = Path(__file__).parents[2]


@pytest.fixture
def write(tmp_path):
    """Writes a file of settings."""

    def written(text: str | bytes) -> Path:
        path = tmp_path / "node.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return written


@pytest.fixture
def faults(write):
    """What is wrong with a file: line and reason of each."""

    def told(text, **options):
        path = write(text)
        with pytest.raises(ConfigFaults) as caught:
            read_config(path, options)
        assert str(caught.value) == "; ".join(caught.value.faults)
        rows = []
        for fault in caught.value.faults:
            assert fault.startswith(f"{path}:")
            line, reason = fault.removeprefix(f"{path}:").split(": ", 1)
            rows.append((int(line), reason))
        return rows

    return told


def test_links_and_the_site_are_read(write):
    assert read_config(write(ALL)) == {
        "mesh": "shop", "insecure": True, "copies": 2, "peers": ["tcp://10.0.0.12:5758"],
        "site": "eu", "links": LINKS,
    }  # fmt: skip


@pytest.mark.parametrize(
    "form", ['site = "eu"\n', 'site.name = "eu"\n', 'site = {name = "eu"}\n', '[site]\nname="eu"\n']
)
def test_all_forms_of_the_site_and_of_a_link_are_taken(write, form):
    rest = 'endpoints = ["tcp://localhost:1"], topics = ["a"]'
    assert read_config(write(form)) == {"site": "eu"}
    found = read_config(write(form + LINK))
    assert found == {"site": "eu", "links": (LinkWish("us", ("tcp://127.0.0.1:1",), ()),)}
    if not form.startswith("["):
        found = read_config(write(f'{form}link = [{{ to = "us", {rest} }}]\n'))
        assert found["links"] == (LinkWish("us", ("tcp://localhost:1",), ("a",)),)
        assert read_config(write(f"{form}link = []\n"))["links"] == ()


def test_a_site_may_have_a_fence(write):
    for text, seconds in (("60s", 60), ("1.5m", 90), ("5000ms", 5), ("24h", 86400)):
        found = read_config(write(f'[site]\nname = "eu"\nfence_after = "{text}"\n'))
        assert found == {"site": "eu", "fence_after": seconds * 1_000_000_000}


def test_options_go_first_then_the_file_then_defaults(write, tmp_path):
    path = write(f'name = "one"\nlisten = "tcp://127.0.0.1:1"\ncopies = 0\nsite = "eu"\n{LINK}')
    options = {"name": "two", "copies": 3, "data": str(tmp_path)}
    settings = settings_of(path, options)
    assert settings == {
        "name": "two", "mesh": "local", "listen": "tcp://127.0.0.1:1", "data": tmp_path,
        "insecure": False, "mdns": True, "site": "eu", "listen_nodes": None, "peers": [],
        "copies": 3, "links": (LinkWish("us", ("tcp://127.0.0.1:1",), ()),), "fence_after": 0,
    }  # fmt: skip
    assert settings_of(None, {"data": str(tmp_path)})["links"] == ()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "a b"}, "node name 'a b' must be 1 to 64 letters"),
        ({"site": "/"}, "site name '/' must be 1 to 64 letters"),
        ({"copies": 6}, "copies is from 1 to 5, not 6"),
        ({"copies": 2}, "--copies is for nodes of a site"),
        ({"peers": ["tcp://127.0.0.1:1"]}, "--peer is for nodes of a site"),
        ({"listen_nodes": "tcp://127.0.0.1:1"}, "--listen-nodes is for nodes of a site"),
        ({"data": "~nobody-of-that-name/x"}, "names a home that there is not"),
    ],
)
def test_what_is_wrong_with_an_option_is_said_without_a_line(write, options, sentence):
    for path in (None, write("mdns = false\n")):
        with pytest.raises(ConfigError, match=sentence) as caught:
            settings_of(path, options)
        assert not isinstance(caught.value, ConfigFaults)


# -- faults ----------------------------------------------------------------------------------------

NOT_YET = "has not come yet by this machine's clock: a mirror begins with what was stored then"
UNKNOWN = f"unknown key 'colour' in [[link]] (known: {', '.join(_OF_LINK)})"
A_TOKEN = (
    "'topics': pattern 'a.>.b': token '>' is not valid ('*' stands for one whole token, '>' only "
    "at the end)"
)
KNOWN = "name, mesh, listen, data, insecure, mdns, site, listen_nodes, peers, copies, link"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fence_after = '9s'", [(1, "unknown key 'fence_after': it goes into [site]")]),
        ("\nnme = 1", [(2, "unknown key 'nme', did you mean 'name'?")]),
        ("colour = 1", [(1, f"unknown key 'colour' (known: {KNOWN})")]),
        ("links = []", [(1, "unknown key 'links', did you mean 'link'?")]),
        ("# x\nlisten = 3", [(2, "'listen' must be a string")]),
        ("copies = true", [(1, "'copies' must be a whole number")]),
        ("mdns = 'no'", [(1, "'mdns' must be true or false")]),
        ("peers = [\n1]", [(1, "'peers' must be a list of strings")]),
        (r'data = "/tmp/a\u0000b"', [(1, "'data' has a NUL in it")]),
        ("name = 'a b'", [(1, "node name 'a b' must be 1 to 64 letters, digits, '-', '_' or '.'")]),
        ("mesh = 'a b'", [(1, "mesh name 'a b' must be 1 to 64 letters, digits, '-' or '_'")]),
        ("copies = 6", [(1, "copies is from 1 to 5, not 6"),
                        (1, "--copies is for nodes of a site: give --site NAME as well")]),
        ("listen = 'x'", [(1, "'x' is not an address: write it like tcp://127.0.0.1:5757")]),
        ("\npeers = ['tcp://localhost:1', 'tcp://localhost:0', '']\nsite = 'eu'",
         [(2, "'tcp://localhost:0' is not an address: write it like tcp://127.0.0.1:5757"),
          (2, "'' is not an address: write it like tcp://127.0.0.1:5757")]),
        ("peers = ['tcp://localhost:1']\nlisten_nodes = 'tcp://127.0.0.1:1'",
         [(1, "--peer is for nodes of a site: give --site NAME as well"),
          (2, "--listen-nodes is for nodes of a site: give --site NAME as well")]),
        ("data = '~nobody-of-that-name/data'",
         [(1, "~nobody-of-that-name/data names a home that there is not: write it out")]),
    ],
)  # fmt: skip
def test_a_fault_at_the_top_has_the_line_of_its_key(faults, text, told):
    assert faults(text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("site = 3", [(1, "'site' must be a string (or a table, [site], with its 'name')")]),
        ("[[site]]", [(1, "'site' must be a string (or a table, [site], with its 'name')")]),
        ("\n[site]\n", [(2, "'name' of [site] is missing")]),
        ("[site]\nname = 1", [(2, "'name' must be a string")]),
        ("[site]\n\nname = '/'",
         [(3, "site name '/' must be 1 to 64 letters, digits, '-', '_' or '.'")]),
        ("site = '/'", [(1, "site name '/' must be 1 to 64 letters, digits, '-', '_' or '.'")]),
        ("[site]\nname = 'eu'\nnam = 1\nmesh = 'shop'\ncolour = 1",
         [(3, "unknown key 'nam' in [site], did you mean 'name'?"),
          (4, "unknown key 'mesh' in [site]: it goes to the top, before any [table]"),
          (5, "unknown key 'colour' in [site] (known: name, fence_after)")]),
        ("[site]\nname = 'eu'\nfence_after = 60",
         [(3, "fence_after is a text like '60s' or '5m', not 60")]),
        ("[site]\nname = 'eu'\nfence_after = '1s'",
         [(3, "fence_after is from 5s to 24h, not '1s'")]),
        ("# x\nsite = 'eu'\n[site]\nname = 'us'\ncolour = 1",
         [(3, "'site' is a key (line 2) and a table as well: keep one of them"),
          (5, "unknown key 'colour' in [site] (known: name, fence_after)")]),
    ],
)  # fmt: skip
def test_faults_of_the_site(faults, text, told):
    assert faults(text) == told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({'to = "us"': "to = 1"}, [(4, "'to' must be a string")]),
        ({'to = "us"': "to = ''"},
         [(4, "site name '' must be 1 to 64 letters, digits, '-', '_' or '.'")]),
        ({'to = "us"': "to = 'eu'"},
         [(4, "'to' is 'eu', the node's own site: a link is to another one")]),
        ({'to = "us"\n': ""}, [(3, "'to' of [[link]] is missing")]),
        ({"topics = []\n": "", "endpoints": "endpoint"},
         [(3, "'endpoints' of [[link]] is missing"), (3, "'topics' of [[link]] is missing"),
          (5, "unknown key 'endpoint' in [[link]], did you mean 'endpoints'?")]),
        ({"topics = []": "topics = []\nsite = 1\ncolour = []"},
         [(7, "unknown key 'site' in [[link]]: it goes to the top, before any [table]"),
          (8, f"unknown key 'colour' in [[link]] (known: {', '.join(_OF_LINK)})")]),
        ({"topics = []": "topics = []\nbytes_per_second = '20'\ncompression = 'gzip'"},
         [(7, "'bytes_per_second': '20' is not a size: write it like 10GB or 64MiB"),
          (8, "'compression' is 'none' or 'zstd', not 'gzip'")]),
        ({"topics = []": "topics = []\nbytes_per_second = '0B'\ncompression = 1"},
         [(7, "'bytes_per_second' is 1kB at least, not '0B': leave it out for as much as there is"),
          (8, "'compression' must be a string")]),
        ({"topics = []": "topics = []\nbytes_per_second = '999B'"},
         [(7, "'bytes_per_second' is 1kB at least, not '999B': a link would stand still")]),
        ({"topics = []": "topics = []\nbytes_per_second = 20"},
         [(7, "'bytes_per_second' must be a string: \"20MB\"")]),
        ({'["tcp://127.0.0.1:1"]': "'tcp://127.0.0.1:1'"},
         [(5, "'endpoints' must be a list of strings")]),
        ({'["tcp://127.0.0.1:1"]': "[]"}, [(5, "'endpoints' are 1 to 16 addresses, not 0")]),
        ({'["tcp://127.0.0.1:1"]': str(["tcp://127.0.0.1:1"] * 3)},
         [(5, "'tcp://127.0.0.1:1' is there 3 times")]),
        ({"127.0.0.1": "*"},
         [(5, "'tcp://*:1' is where a node may listen: name the host that is to be dialled")]),
        ({"topics = []\n": 'topics = []\n[[link]]\nto = "asia"\n'
                            'endpoints = ["tcp://127.0.0.1:1"]\ntopics = []\n'},
         [(9, "'tcp://127.0.0.1:1' is an endpoint of the link in line 5 already")]),
        ({'["tcp://127.0.0.1:1"]': str([f"tcp://127.0.0.1:{i}" for i in range(1, 18)])},
         [(5, "'endpoints' are 1 to 16 addresses, not 17")]),
        ({"topics = []": f"topics = {['a.>'] * 65}\nexclude = {['a'] * 66}"},
         [(6, "'topics' are 64 patterns at most, not 65"),
          (7, "'exclude' are 64 patterns at most, not 66")]),
        ({"topics = []": f"topics = ['a.>']\npriority = {['a.x'] * 9}"},
         [(7, "'priority' are 8 patterns at most, not 9")]),
        ({"topics = []": "topics = ['a.>']\nexclude = ['a.x']\npriority = ['a.*', 'b', 'a.x']"},
         [(8, f"'priority': 'b' {COVERS_NOTHING}"), (8, f"'priority': 'a.x' {COVERS_NOTHING}")]),
        ({"topics = []": "topics = []\nsince = 7"},
         [(7, "'since' must be a string: \"7d\"")]),
        ({"topics = []": "topics = []\nsince = '2999-01-01'"},
         [(7, f"'since' '2999-01-01' {NOT_YET}")]),
        ({"topics = []": "topics = []\nretention = 7\nretention_bytes = '1 week'"},
         [(7, "'retention' must be a string: \"30d\""),
          (8, "'retention_bytes': '1 week' is not a size: write it like 10GB or 64MiB")]),
        ({"topics = []": "topics = []\nretention = '7 weeks'"},
         [(7, "'retention': '7 weeks' is not a duration: write it like 7d, 12h, 30m or 90s")]),
        ({"topics = []": "topics = []\nsince = '0s'"},
         [(7, "'since' '0s' is no time at all: leave it out to mirror all there is")]),
        ({"topics = []": "topics = []\nsince = 'May'"},
         [(7, f"'since' 'May' {NO_TIME}")]),
        ({"topics = []": f"topics = []\nlive = {['a'] * 65}"},
         [(7, "'live' are 64 patterns at most, not 65")]),
        ({"topics = []": "topics = []\nservices = ['$a']\nlive = []"},
         [(7, "'services': pattern '$a': names that begin with '$' are the mesh's own")]),
        ({"topics = []": "topics = []\nlive = 'a'"}, [(7, "'live' must be a list of strings")]),
        ({"topics = []": "topics = []\nlive = ['$a', 'a.>.b']"},
         [(7, "'live': pattern '$a': names that begin with '$' are the mesh's own"),
          (7, A_TOKEN.replace("topics", "live"))]),
        ({"topics = []": "topics = 'a'"}, [(6, "'topics' must be a list of strings")]),
        ({"topics = []": "topics = 'a'\npriority = ['a']"},  # of nothing that is known
         [(6, "'topics' must be a list of strings")]),
        ({"topics = []": "topics = [\n'a',\n'a.>.b', '$dlq.a']\nexclude = ['', '$x']"},
         [(6, A_TOKEN),
          (6, "'topics': pattern '$dlq.a': names that begin with '$' are the mesh's own"),
          (9, "'exclude': a pattern is a non-empty string of dot-separated tokens, not ''"),
          (9, "'exclude': pattern '$x': names that begin with '$' are the mesh's own")]),
    ],
)  # fmt: skip
def test_faults_of_a_link(faults, changes, told):
    text = LINK
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    assert faults("[site]\nname = 'eu'\n" + text) == told


@pytest.mark.parametrize(
    "endpoint",
    ["ipc:///tmp/x", "tcp://localhost", "tcp://:1", "tcp://localhost:0", "tcp://localhost:65536",
     "tcp://localhost:*", "tcp://a b:1", r"tcp://a\u0000b:1", "tcp://localhost:1/x", "localhost:1",
     "tcp://u@localhost:1", ""],
)  # fmt: skip
def test_an_endpoint_is_a_host_and_a_port(faults, endpoint):
    text = f'site = "eu"\n\n{LINK.replace("tcp://127.0.0.1:1", endpoint)}'
    [(line, reason)] = faults(text)
    assert line == 5
    assert "is not an address: write it like tcp://" in reason


def test_what_leaves_the_host_without_keys_is_refused_as_with_peers(faults, write):
    far = 'site = "eu"\n\n' + LINK.replace("127.0.0.1", "us-gw")
    [(line, reason)] = faults(far)
    assert (line, reason[:38]) == (5, "refusing to connect to tcp://us-gw:1: ")
    assert faults(far, mesh="shop") == faults(far, insecure=True) == [(line, reason)]
    assert read_config(write(far), {"mesh": "shop", "insecure": True})["links"]
    # What cannot be known since it is faulty itself is no second fault.
    assert faults("insecure = 1\nmesh = 2\n" + far) == [
        (1, "'insecure' must be true or false"), (2, "'mesh' must be a string"),
    ]  # fmt: skip


def test_links_need_a_site_which_an_option_may_give(faults, write):
    needs = "[[link]] is for nodes of a site: give its name in [site] as well"
    assert faults(LINK) == [(1, needs)]
    assert read_config(write(LINK), {"site": "eu"})["links"]
    assert faults(LINK, site="us") == [
        (2, "'to' is 'us', the node's own site: a link is to another one")
    ]
    # A site that is faulty is given nevertheless.
    assert faults("site = 1\n" + LINK) == faults("site = 1\n")


def test_sites_of_links_are_told_apart(faults):
    ap, again = LINK.replace("us", "ap").replace(":1", ":2"), LINK.replace(":1", ":3")
    [fault] = faults('site = "eu"\n' + LINK + ap + again)
    assert fault == (11, "there is a link to 'us' already, in line 3")


@pytest.mark.parametrize("text", ["link = 1", "[link]", "link = ['a']", "link = [{}, 1]"])
def test_links_are_tables(faults, text):
    assert faults("site = 'eu'\n" + text) == [
        (2, "'link' must be tables, each with the header [[link]]")
    ]


def test_links_in_one_line_have_lines_too(faults):
    text = "site = 'eu'\nlink = [\n  { to = 'us', endpoints = [], topics = [] },\n  {},\n]\n"
    assert faults(text) == [
        (3, "'endpoints' are 1 to 16 addresses, not 0"),
        (4, "'to' of [[link]] is missing"),
        (4, "'endpoints' of [[link]] is missing"),
        (4, "'topics' of [[link]] is missing"),
    ]


def test_every_fault_is_told_at_once_in_the_order_of_the_file(faults):
    text = ALL.replace('to = "ap"', 'to = "us"').replace("mesh =", "mess =").replace("= 2", "= 9")
    told = faults(text.replace("topics = []", "topics = [1]"))
    assert [line for line, _ in told] == [1, 3, 4, 11, 11, 18, 19, 20]
    assert told[0][1] == "unknown key 'mess', did you mean 'mesh'?"
    assert told[-1][1] == "'topics' must be a list of strings"


def test_faults_in_what_an_option_replaces_are_of_kind_only(faults, write):
    path = write("name = 'a b'\ncopies = 9\nlisten = 'x'\nmesh = 'a b'\ndata = '~nobody-x/y'\n")
    options = dict.fromkeys(("name", "listen", "mesh", "data"), "a") | {"copies": 1}
    assert read_config(path, options)["name"] == "a b"
    assert faults("copies = 'x'", copies=1) == [(1, "'copies' must be a whole number")]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("][", 1),
        ("a = 1\n\nb =\n", 3),
        ("site = 'eu'\n\nsite = 'us'\n", 3),
        ("site = 'eu'\n[site]\nname = 'eu'\n\nx = \n", 5),
        ('a = 1\nb = """x\n\n', 3),
        (b"a = 1\nb = '\xff'\n", 2),
        ("a = 1\nb = " + "9" * 5000, 1),
        ("a = " + "[" * 5000, 1),
    ],
)
def test_what_is_no_toml_has_a_line_too(faults, text, line):
    [(at, reason)] = faults(text)
    assert at == line
    assert reason.startswith("is not valid TOML: ")


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"^cannot read .*none.toml: No such file"):
        read_config(tmp_path / "none.toml")


def test_the_files_of_the_page_and_of_the_example_are_read_as_they_are_told(write):
    page = (ROOT / "docs" / "operating.md").read_text()
    table = page.split("## The settings file")[1].split("\n## ")[0]
    found = read_config(write(table.split("```toml\n")[1].split("```")[0]))
    us, asia = found["links"]
    assert (found["site"], found["copies"]) == ("eu", 2)
    assert (us.to, us.topics, us.exclude) == ("us", ("orders.>", "audit.>"), ("orders.tmp.>",))
    assert (us.live, asia.live) == (("prices.>",), ())
    assert (us.services, asia.services) == (("quote.>",), ())
    assert (us.priority, us.since_age_ns) == (("audit.>",), 7 * limits.DAY)
    assert (us.retention, asia.retention) == ((30 * limits.DAY, 50 * 10**9), None)
    assert (asia.to, asia.topics) == ("asia", ())
    keys = set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.splitlines()
                                              if row.startswith("|"))))  # fmt: skip
    assert (us.bytes_per_second, us.compression) == (20_000_000, "zstd")
    assert {*found, *_OF_LINK} - {"links", "site"} <= keys

    text = (ROOT / "examples" / "site" / "meshmq.toml").read_text()
    assert "links" not in read_config(write(text))
    link = text[text.index("# [[link]]") :].replace("# ", "", 1).replace("\n# ", "\n")
    (us,) = read_config(write(text[: text.index("# [[link]]")] + link))["links"]
    assert (us.to, len(us.endpoints), us.exclude) == ("us", 2, ("orders.tmp.>",))

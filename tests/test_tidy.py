"""The house rules, as checks over the source; each is shown to notice what it forbids."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import meshmq

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "meshmq").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/*.md")])
LINES_MAX = 700
FUNCTION_LINES_MAX = 80

FOUNDATION = {
    "meshmq", "meshmq.errors", "meshmq.names", "meshmq.limits", "meshmq.frames",
    "meshmq.frames_copies", "meshmq.frames_direct", "meshmq.frames_directory",
    "meshmq.frames_moving", "meshmq.frames_offers", "meshmq.frames_site", "meshmq.frames_streams",
}  # fmt: skip
MACHINES = {"session", "publisher", "subscriber", "consumer", "streams", "delivery", "topics"}
ONLY_IN = {
    "capnp": {"meshmq/schema.py"},
    "zmq": {"meshmq/shell/sockets.py"},
    "sqlite3": {"meshmq/shell/segment.py", "meshmq/shell/store.py", "meshmq/shell/store_disk.py",
                "meshmq/shell/store_read.py", "meshmq/shell/store_segments.py",
                "meshmq/shell/store_rewrite.py", "meshmq/shell/store_repair.py",
                "meshmq/shell/store_background.py"},
    "diskcache": {"meshmq/shell/segment.py", "meshmq/shell/store.py",
                  "meshmq/shell/store_disk.py", "meshmq/shell/store_read.py",
                  "meshmq/shell/store_segments.py", "meshmq/shell/store_background.py"},
    "pickle": set(),
    "zeroconf": {"meshmq/shell/discovery.py"},
    "ifaddr": {"meshmq/shell/interfaces.py"},
    "zstandard": {"meshmq/codec_packing.py"},
}  # fmt: skip
FOR_PROGRAMS = {"local", "simulated", "plugin"}  # of meshmq.testing: they bring the client along
IMPURE = {"time", "threading", "logging", "asyncio", "socket", "os", "subprocess", "queue", "io"}
ABORTING = {"as_builder", "total_size"}  # pycapnp calls that end the process on malformed input


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def imports(tree):
    """Every module that a file imports, with the names taken from it as modules too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def wrong_imports(name, tree):
    """What ``name`` imports and must not."""
    found = imports(tree)
    tops = {module.split(".")[0] for module in found}
    wrong = {top for top, places in ONLY_IN.items() if top in tops and name not in places}
    own = {m for m in found if m.startswith("meshmq.")}
    if name.startswith("meshmq/core/"):
        wrong |= tops & IMPURE
        layers = ("meshmq.shell", "meshmq.client", "meshmq.cli", "meshmq.codec", "meshmq.testing")
        wrong |= {m for m in own if m.startswith(layers)}
        stem = Path(name).stem
        if stem in MACHINES:
            others = MACHINES - {stem, "topics"}
            wrong |= {m for m in own if m.split(".")[-1] in others and ".core." in m}
    elif name.startswith("meshmq/shell/"):
        wrong |= {m for m in own if m.startswith(("meshmq.client", "meshmq.cli", "meshmq.testing"))}
    elif name.startswith("meshmq/client/"):
        wrong |= {m for m in own if m.startswith(("meshmq.cli.", "meshmq.testing"))}
    elif name.startswith("meshmq/testing/") and Path(name).stem not in FOR_PROGRAMS:
        wrong |= {m for m in own if m.startswith(("meshmq.shell", "meshmq.client", "meshmq.cli"))}
    elif name.removesuffix(".py").replace("/", ".") in FOUNDATION:
        wrong |= {m for m in own if m.rsplit(".", 1)[0] not in FOUNDATION and m not in FOUNDATION}
    return wrong


def bad_calls(tree):
    """Calls that are forbidden everywhere: they end the process, or draw from a global."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, name = node.func.value, node.func.attr
        if name in ABORTING or (name == "to_dict" and node.keywords):
            found.append(name)
        if isinstance(owner, ast.Name) and owner.id == "random" and name != "Random":
            found.append(f"random.{name}")
    return found


def long_functions(tree):
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_source(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert wrong_imports(name_of(path), tree) == set()
    assert bad_calls(tree) == []
    assert long_functions(tree) == []
    assert text.count("\n") <= LINES_MAX
    assert ast.get_docstring(tree) or not text.strip(), "a module says what it is for"
    calls = {n.func.id for n in ast.walk(tree)
             if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}  # fmt: skip
    if not name_of(path).startswith("meshmq/cli/"):
        assert "print" not in calls


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name_of)
def test_nothing_is_left_to_do(path):
    words = "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3])
    assert not re.search(rf"\b({words})\b", path.read_text())


@pytest.mark.parametrize(
    ("name", "source", "wrong"),
    [
        ("meshmq/core/session.py", "import time", {"time"}),
        ("meshmq/core/session.py", "from meshmq.core.publisher import Batch",
         {"meshmq.core.publisher"}),
        ("meshmq/core/node.py", "from meshmq.core.session import Session", set()),
        ("meshmq/core/node.py", "from meshmq import codec", {"meshmq.codec"}),
        ("meshmq/client/mesh.py", "import zmq", {"zmq"}),
        ("meshmq/shell/sockets.py", "import zmq", set()),
        ("meshmq/codec.py", "import pickle", {"pickle"}),
        ("meshmq/testing/world.py", "import meshmq.shell.clock", {"meshmq.shell.clock"}),
        ("meshmq/names.py", "from meshmq.core.log import Commit",
         {"meshmq.core.log", "meshmq.core.log.Commit"}),
    ],
)  # fmt: skip
def test_wrong_imports_are_noticed(name, source, wrong):
    assert wrong_imports(name, ast.parse(source)) == wrong


def test_bad_calls_and_long_functions_are_noticed():
    assert bad_calls(ast.parse("r.as_builder()\nr.to_dict(verbose=True)\nrandom.random()")) == [
        "as_builder", "to_dict", "random.random",
    ]  # fmt: skip
    assert bad_calls(ast.parse("random.Random(1)\nr.to_dict()")) == []
    assert long_functions(ast.parse("def f():\n" + "    x = 1\n" * 80)) == ["f"]


def test_every_limit_says_why():
    """A unit in its name or a reason behind it."""
    text = (ROOT / "meshmq" / "limits.py").read_text()
    units = ("_BYTES", "_NS", "_MAX", "_COUNT", "_TARGET", "_DEFAULT")
    for line in text.splitlines():
        found = re.match(r"([A-Z_]{4,})\s*=", line)
        if found and found[1] not in ("SECOND",):
            assert "#" in line or any(unit in found[1] for unit in units), line


def test_public_names_are_documented():
    for name in meshmq.__all__:
        thing = getattr(meshmq, name)
        assert thing.__doc__, name
        members = vars(thing) if isinstance(thing, type) else {}
        for member, value in members.items():
            public = not member.startswith("_")
            if public and callable(value) and not isinstance(value, type):
                assert value.__doc__, f"{name}.{member}"


# -- pages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target).exists(), target


def named_tests(text):
    return re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)


def test_every_test_that_the_guarantees_name_exists():
    text = (ROOT / "docs" / "guarantees.md").read_text()
    named = named_tests(text)
    assert len(named) > 15
    for file, test in named:
        source = (ROOT / file).read_text()
        assert not test or f"def {test}(" in source, f"{file}::{test}"
    checkers = (ROOT / "meshmq" / "testing" / "checkers.py").read_text()
    planted = (ROOT / "tests" / "simulation" / "test_planted.py").read_text()
    for row in text.splitlines():
        for group in re.findall(r"checkers? ((?:`\w+`(?:,| and)? ?)+)", row):
            for name in re.findall(r"`(\w+)`", group):
                assert f"def {name}(" in checkers, name
        for group in re.findall(r"planted bugs? ((?:`\w+`,? ?)+)", row):
            for name in re.findall(r"`(\w+)`", group):
                assert f"def {name}(" in planted, name


PROMISES = (ROOT / "docs" / "guarantees.md").read_text().split("## The promises")[1]
ROWS = PROMISES.split("##")[0].strip().splitlines()[2:]


def named_after(word, text):
    groups = re.findall(rf"{word}s? ((?:`\w+`(?:,| and)? ?)+)", text)
    return [name for group in groups for name in re.findall(r"`(\w+)`", group)]


def assertions(tree):
    """What can fail in a piece of a test: assertions, expected errors, a command's verdict."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
        or (isinstance(node, ast.Attribute) and ast.unparse(node) in ("pytest.raises", "sys.exit"))
    ]


def judging(tree, name):
    """The function ``name`` of a file and the functions of that file which it calls, by name."""
    functions = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
    found, rest = {}, [name]
    while rest:
        one = rest.pop()
        if one in found or one not in functions:
            continue
        found[one] = functions[one]
        rest += [n.id for n in ast.walk(functions[one]) if isinstance(n, ast.Name)]
    return list(found.values())


def test_what_cannot_fail_is_noticed():
    source = "def helper():\n    assert x\ndef test_a():\n    helper()\ndef test_b():\n    f()\n"
    tree = ast.parse(source)
    assert any(assertions(part) for part in judging(tree, "test_a"))
    assert not any(assertions(part) for part in judging(tree, "test_b"))
    assert judging(tree, "test_c") == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:50])
def test_the_proofs_of_a_guarantee_can_fail(row):
    """Each is a checker that a planted bug is known to make fail by itself, a planted bug, or a
    test with something in it that can fail."""
    planted = (ROOT / "tests" / "simulation" / "test_planted.py").read_text()
    shown = planted.split("SHOWN_BY = {")[1].split("}")[0]
    proof = row.strip("|").split("|")[-1]
    tests, checkers = named_tests(proof), named_after("checker", proof)
    bugs = named_after("planted bug", proof)
    assert len(tests) + len(checkers) + len(bugs) == len(re.findall(r"`[^`]+`", proof)), proof
    for name in checkers:
        assert f'"{name}": ' in shown, f"no planted bug is named that {name} notices"
    for name in bugs:
        assert re.search(rf"^@planted\(.*\)\ndef {name}\(", planted, re.MULTILINE), name
    for file, test in tests:
        tree = ast.parse((ROOT / file).read_text())
        if not test:
            assert assertions(tree), file
        else:
            assert any(assertions(part) for part in judging(tree, test)), f"{file}::{test}"


def test_every_guarantee_has_a_proof():
    text = (ROOT / "docs" / "guarantees.md").read_text()
    rows = text.split("## The promises")[1].split("##")[0].strip().splitlines()[2:]
    assert len(rows) > 12
    for row in rows:
        proof = row.strip("|").split("|")[-1]
        assert "`" in proof, row


def test_the_guarantees_say_of_every_error_whether_it_was_applied():
    text = (ROOT / "docs" / "guarantees.md").read_text()
    section = text.split("## Done, not done, unknown")[1].split("\n## ")[0]
    told = {}
    for part in re.split(r"^- (?=\*\*)", section, flags=re.MULTILINE)[1:]:
        outcome = part.split("**")[1]
        for name in re.findall(r"`([A-Z]\w+)`", part.split("\n\n")[0]):
            told.setdefault(name, set()).add(outcome)
    bases = {"MeshError", "ProtocolError", "StoreError", "OperationError"}
    errors = {kind.__name__: {kind.outcome} for kind in meshmq.errors.BY_CODE.values()}
    assert told == {name: found for name, found in errors.items() if name not in bases}


def test_every_option_in_the_pages_exists():
    commands = "".join(p.read_text() for p in (ROOT / "meshmq" / "cli").glob("*.py"))
    for path in (ROOT / "README.md", ROOT / "docs" / "guarantees.md"):
        for option in re.findall(r"(?<![\w-])--([a-z][a-z-]+)", path.read_text()):
            if option == "help":
                continue  # every command has it
            name = option.replace("-", "_")
            assert f'"--{option}"' in commands or re.search(rf"\b{name}: Annotated", commands) or (
                re.search(rf"\b{name}: \w+Option", commands)
            ), option  # fmt: skip


def test_the_pages_of_the_design_are_there():
    for name in ("guarantees", "protocol", "architecture", "glossary", "performance"):
        assert (ROOT / "docs" / f"{name}.md").exists()
        assert f"docs/{name}.md" in (ROOT / "README.md").read_text()

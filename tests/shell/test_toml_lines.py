"""Lines of keys and tables in TOML text."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshmq.cli.toml_lines import TomlLines

TEXT = '''\
# [no] = 1
name = "a # b [x]"  # site = "no"
"quoted key" . 'and.dot' . bare = 1
"\\u0061\\"=" = 2
list = [  # ] not yet
  "one]", 'two"',
  # no = 3
  [1, 2],
  { inner = 1, other = { deep = [1,
    { deeper = "}" }] } },
]
long = """
[no]
no = 1 \\""" no = 2
""""
raw = \'\'\'
[[no]]
no = '\'\'\'\'
when = 1979-05-27 07:32:00  # a space in it
after = -1.5e3

[site]
name = "eu"
[ "a b" . c ]
d = true
  [[link]]
  to = "us"
[[link]]

to = "ap"
[link.more]
x = 1
[[link.rows]]
y = 1
[[link.rows]]
y = 2
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("name",), 2),
        (("quoted key",), 3),
        (("quoted key", "and.dot"), 3),
        (("quoted key", "and.dot", "bare"), 3),
        (('a"=',), 4),
        (("list",), 5),
        (("list", 0), 6),
        (("list", 1), 6),
        (("list", 2), 8),
        (("list", 3), 9),
        (("list", 3, "inner"), 9),
        (("list", 3, "other", "deep", 1, "deeper"), 10),
        (("long",), 12),
        (("raw",), 16),
        (("when",), 19),
        (("after",), 20),
        (("site",), 22),
        (("site", "name"), 23),
        (("a b",), 24),
        (("a b", "c", "d"), 25),
        (("link",), 26),
        (("link", 0), 26),
        (("link", 0, "to"), 27),
        (("link", 1), 28),
        (("link", 1, "to"), 30),
        (("link", 1, "more", "x"), 32),
        (("link", 1, "rows", 1), 35),
        (("link", 1, "rows", 1, "y"), 36),
    ],
)
def test_everything_is_where_it_is(path, line):
    assert TomlLines(TEXT).of(*path) == line
    assert TomlLines(TEXT.replace("\n", "\r\n")).of(*path) == line


def test_the_text_is_what_tomllib_takes_it_for_and_nothing_is_found_that_is_not_there():
    assert {path for path, _ in TomlLines(TEXT).places} == set(paths(tomllib.loads(TEXT)))


@pytest.mark.parametrize(
    ("path", "line"),
    [(("link", 1, "none"), 28), (("site", "no", "no"), 22), (("nothing",), 1), ((), 1)],
)
def test_what_is_missing_is_where_it_would_be(path, line):
    assert TomlLines(TEXT).of(*path) == line


def test_a_header_of_its_own_goes_before_what_only_leads_to_a_table():
    lines = TomlLines("[a.b]\nx = 1\n[a]\ny = 1\n")
    assert (lines.of("a"), lines.of("a", "b"), lines.of("a", "y")) == (3, 1, 4)


def test_what_is_named_twice_is_in_the_places_twice():
    places = TomlLines('site = "eu"\n\n[site]\nname = "eu"\n').places
    assert [place.line for place in places if place.path == ("site",)] == [1, 3]


def paths(value, path=()):
    """Paths of all that is in a document but for itself."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from paths(item, (*path, index))


# -- documents that are made up --------------------------------------------------------------------

SCALARS = [
    "1", "-1.5e3", "true", "1979-05-27 07:32:00Z", '""', "''", '"a # b"', r'"\" = [1"', r"'\'",
    '"""a"""', '"""\nk = 1\n[k]\n"""', '""""q" ""\\""""""', "'''\n[[k]]\n''''", "''''''",
]  # fmt: skip
VALUES = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda rows: "[ # [\n" + " , # ]\n".join(rows) + "\n]")
        | st.lists(inner, max_size=3).map(lambda rows: f"[{', '.join(rows)}]")
    ),
    max_leaves=6,
)
BLANKS = st.sampled_from(["", "\n", "  # k = 1\n", "\r\n", '# """\n', "\t# [k]\n\n"])
FORMS = st.sampled_from(["{}", '"{}"', "'{}'", "{0}. x", '"{}" . "y.z" . w', " {}"])
HEADERS = st.sampled_from(["[{}]", "[[{}]]", " [ {}.sub ]", '[["{}" . rows]]  # ]', "[''.{}]"])
STATEMENTS = st.lists(
    st.tuples(BLANKS, st.one_of(st.tuples(FORMS, VALUES), st.tuples(HEADERS, st.just("")))),
    max_size=12,
)


@given(STATEMENTS)
def test_keys_and_headers_are_found_in_any_document(statements):
    text, expected = "", {}
    for number, (blank, (form, value)) in enumerate(statements):
        text += blank
        name = f"k{number}"
        expected[name] = text.count("\n") + 1
        text += form.format(name) + (f" ={value}\n" if value else "\n")
    document = tomllib.loads(text)  # or the test itself is wrong
    lines = TomlLines(text)
    assert {path for path, _ in lines.places} == set(paths(document))
    for path, line in lines.places:
        names = [part for part in path if part in expected]
        if path[-1] in expected:
            assert line == expected[path[-1]], path
        elif names:
            assert line >= expected[names[-1]], path


@given(st.text("ak.= \n\r#\"'\\[]{},-1", max_size=60))
def test_the_scanner_ends_whatever_the_text_is(text):
    lines = TomlLines(text)
    assert all(1 <= line <= text.count("\n") + 1 for _, line in lines.places)
    try:
        document = tomllib.loads(text)
    except ValueError:
        return
    assert {path for path, _ in lines.places} == set(paths(document))

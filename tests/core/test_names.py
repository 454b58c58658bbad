"""Names: topics, patterns, what a wildcard covers, positions as text."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from meshmq import limits
from meshmq.errors import InvalidArgument, InvalidName
from meshmq.names import (
    Position,
    Stream,
    check_mesh,
    check_pattern,
    check_topic,
    covers,
    is_literal,
    is_position,
    matches,
    meet,
)

ORIGIN = "0123456789abcdef" * 2
NOT_NAMES = [
    "", ".", "a.", ".a", "a..b", "a b", " a", "a ", "a\n", "a\t.b", "a\x00", "a\x7f", "a\u2003b",
    "a*", "*a", "a.>b", ">>", "a.**", "a>", "\ud800", "a.\udcff.b",
]  # fmt: skip
NOT_STRINGS = [None, 5, b"a", ["a"], {"a": 1}, {"a"}]


# -- topics ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a", "orders.eu.created", "größe.日本", "a-b_c:d/e", "a.$b", "1", "-", "e\u0301"]
)
def test_a_topic_is_tokens_between_dots(name):
    assert check_topic(name) == name
    assert check_pattern(name) == name
    assert is_literal(name)
    name.encode()


@pytest.mark.parametrize("name", [*NOT_NAMES, "*", "a.*", ">", "a.>", "a.*.b"])
def test_what_is_no_topic_is_refused_and_named(name):
    with pytest.raises(InvalidName, match=re.escape(repr(name))):
        check_topic(name)


@pytest.mark.parametrize("name", ["$", "$SYS", "$SYS.a"])
def test_the_meshs_own_names_are_not_for_publishing(name):
    with pytest.raises(InvalidName, match="the mesh's own"):
        check_topic(name)
    assert check_pattern(name) == name


@pytest.mark.parametrize("name", NOT_STRINGS)
@pytest.mark.parametrize("check", [check_topic, check_pattern, check_mesh])
def test_what_is_no_string_is_no_name(check, name):
    with pytest.raises(InvalidName):
        check(name)


def test_a_publisher_with_a_wildcard_is_told_what_wildcards_are_for():
    with pytest.raises(InvalidName, match="subscribing"):
        check_topic("orders.*")


@pytest.mark.parametrize("check", [check_topic, check_pattern])
def test_names_are_bounded_in_bytes_and_tokens(check):
    assert check("x" * limits.TOPIC_BYTES_MAX)
    with pytest.raises(InvalidName, match="256 bytes"):
        check("x" * (limits.TOPIC_BYTES_MAX + 1))
    with pytest.raises(InvalidName, match="256 bytes"):
        check("é" * 128)
    assert check(".".join("x" * limits.TOPIC_TOKENS_MAX))
    with pytest.raises(InvalidName, match="17 tokens"):
        check(".".join("x" * (limits.TOPIC_TOKENS_MAX + 1)))


# -- patterns --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["*", ">", "a.*", "*.a", "a.*.b", "a.>", "*.>", "*.*", "$x.>"])
def test_wildcards_stand_for_whole_tokens(pattern):
    assert check_pattern(pattern) == pattern
    assert not is_literal(pattern)


@pytest.mark.parametrize("pattern", [*NOT_NAMES, ">.a", "a.>.b", ">.>", "a.>."])
def test_what_is_no_pattern_is_refused_and_named(pattern):
    with pytest.raises(InvalidName, match=re.escape(repr(pattern))):
        check_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "topic", "covered"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", "a.b", False),
        ("a.b", "a", False),
        ("*", "a", True),
        ("*", "a.b", False),
        ("a.*", "a", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("*.b", "a.b", True),
        ("*.b", "b", False),
        ("a.*.c", "a.x.c", True),
        ("a.*.c", "a.x.d", False),
        (">", "a", True),
        (">", "a.b.c", True),
        ("a.>", "a", False),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c.d", True),
        ("a.>", "b.c", False),
        ("*.>", "a", False),
        ("*.>", "a.b", True),
        ("a.*.>", "a.b", False),
        ("a.*.>", "a.b.c", True),
        (">", "$SYS.x", False),
        ("*", "$SYS", False),
        ("*.x", "$SYS.x", False),
        ("$SYS.*", "$SYS.x", True),
        ("$SYS.>", "$SYS.x.y", True),
        ("$SYS.x", "$SYS.x", True),
        ("a.*", "a.$b", True),
        ("a.b", "a+b", False),
        ("a.+", "a.+", True),
    ],
)
def test_what_a_pattern_covers(pattern, topic, covered):
    assert matches(pattern, topic) is covered


TOKENS = ["a", "b", "$a", "$", "ab", "é", "+", "[a]"]


def naive(pattern):
    """The pattern as a regular expression over a whole topic."""
    token = r"[^.]+"
    parts = []
    for i, part in enumerate(pattern.split(".")):
        first = r"(?!\$)" if i == 0 else ""
        if part == "*":
            parts.append(first + token)
        elif part == ">":
            parts.append(first + rf"{token}(?:\.{token})*")
        else:
            parts.append(re.escape(part))
    return re.compile(r"\.".join(parts))


@settings(deadline=None)
@given(
    pattern=st.lists(st.sampled_from([*TOKENS, "*", "*", ">"]), min_size=1, max_size=5),
    topic=st.lists(st.sampled_from(TOKENS), min_size=1, max_size=5),
)
def test_matches_is_what_a_regular_expression_says(pattern, topic):
    assume(">" not in pattern[:-1])
    pattern, topic = ".".join(pattern), ".".join(topic)
    assert check_pattern(pattern)
    assert matches(pattern, topic) is bool(naive(pattern).fullmatch(topic))


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", "*", False),
        ("a", "a.b", False),
        ("a.b", "a", False),
        ("*", "a", True),
        ("*", "*", True),
        ("*", ">", False),
        ("*", "*.*", False),
        ("a.*", "a.b", True),
        ("a.*", "a.*", True),
        ("a.*", "a.>", False),
        ("a.*", "*.b", False),
        ("*.*", "a.*", True),
        ("*.*", "*.>", False),
        ("*.b", "a.*", False),
        (">", ">", True),
        (">", "*", True),
        (">", "a.*.>", True),
        ("a.>", "a", False),
        ("a.>", ">", False),
        ("a.>", "a.*", True),
        ("a.>", "a.>", True),
        ("a.>", "a.b.>", True),
        ("a.>", "*.b", False),
        ("a.b.>", "a.>", False),
        ("a.*.>", "a.>", False),
        ("a.*.>", "a.*.*", True),
        ("*.>", "a.>", True),
        ("*.>", ">", False),
        (">", "$SYS.a", False),
        (">", "$SYS.>", False),
        ("*", "$SYS", False),
        ("*.a", "$SYS.a", False),
        ("*.>", "$SYS.>", False),
        ("$SYS.>", "$SYS.a", True),
        ("$SYS.>", "$SYS.*", True),
        ("$SYS.*", "$SYS.>", False),
        ("$SYS.>", ">", False),
        ("$SYS", "$SYS", True),
        ("a.*", "a.$b", True),
        ("a.>", "a.$b.>", True),
    ],
)
def test_which_pattern_covers_another(wide, narrow, covered):
    assert covers(wide, narrow) is covered


some_patterns = (
    st.lists(st.sampled_from([*TOKENS, "*", "*", ">"]), min_size=1, max_size=5)
    .filter(lambda tokens: ">" not in tokens[:-1])
    .map(".".join)
)


@st.composite
def topics_of(draw, pattern):
    """A topic that a pattern matches."""
    tokens = []
    for token in pattern.split("."):
        count = draw(st.integers(1, 4)) if token == ">" else 1
        for _ in range(count):
            free = draw(st.sampled_from(TOKENS if tokens else ["a", "b", "ab", "é"]))
            tokens.append(free if token in ("*", ">") else token)
    return ".".join(tokens)


@st.composite
def narrower(draw, pattern):
    """A pattern that may well be covered by another one."""
    tokens = pattern.split(".")
    if tokens[-1] == ">":
        tokens[-1:] = draw(st.lists(st.sampled_from([*TOKENS, "*"]), min_size=1, max_size=3))
        tokens += [">"] * draw(st.booleans())
    return ".".join(
        [draw(st.sampled_from([token, *TOKENS[:2]])) if token == "*" else token for token in tokens]
    )


@settings(deadline=None, max_examples=300)
@given(st.data(), some_patterns)
def test_what_a_covered_pattern_matches_the_wider_one_matches(data, wide):
    narrow = data.draw(some_patterns | narrower(wide))
    assert check_pattern(wide)
    assert check_pattern(narrow)
    topic = data.draw(topics_of(narrow))
    assert matches(narrow, topic)
    if covers(wide, narrow):
        assert matches(wide, topic)


@settings(deadline=None, max_examples=300)
@given(st.data(), some_patterns)
def test_a_pattern_that_is_not_covered_matches_what_the_wider_one_does_not(data, wide):
    narrow = data.draw(some_patterns | narrower(wide))
    plain = narrow.replace("*", "new")  # a token that no other pattern here has
    topics = [plain.replace(">", ".".join(["new"] * count)) for count in (1, 2, 6)]
    assert all(matches(narrow, topic) for topic in topics)
    assert covers(wide, narrow) is all(matches(wide, topic) for topic in topics)


@settings(deadline=None)
@given(st.text(max_size=20))
def test_any_text_is_a_topic_that_can_travel_or_is_refused(text):
    try:
        check_topic(text)
    except InvalidName:
        return
    assert len(text.encode()) <= limits.TOPIC_BYTES_MAX
    assert check_pattern(text) == text
    assert matches(text, text)
    assert matches(">", text)


# -- meshes, streams, positions --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["local", "a", "A-1_b", "9", "x" * limits.MESH_BYTES_MAX])
def test_a_mesh_has_a_plain_name(name):
    assert check_mesh(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "_a", "a.b", "a b", "é", "a\n", "x" * (limits.MESH_BYTES_MAX + 1)]
)
def test_what_is_no_mesh_name_is_refused(name):
    with pytest.raises(InvalidName):
        check_mesh(name)


def test_a_stream_reads_as_its_topic_and_origin():
    assert str(Stream("a.b", "t" * 32, "0123456789" + "f" * 22)) == "a.b@01234567/0"


positions = st.builds(
    Position,
    st.binary(min_size=16, max_size=16).map(bytes.hex),
    st.integers(0, (1 << 63) - 1),
    st.integers(0, 10**9 - 1),
    st.integers(0, 10**9 - 1),
)


wide_positions = st.builds(
    Position,
    st.binary(min_size=16, max_size=16).map(bytes.hex),
    st.integers(0, (1 << 63) - 1),
    st.integers(0, 10**9 - 1),
    st.integers(0, 10**9 - 1),
    st.integers(0, (1 << 63) - 1),
    st.lists(
        st.tuples(
            st.binary(min_size=16, max_size=16).map(bytes.hex),
            st.integers(0, (1 << 63) - 1),
            st.integers(0, 10**9 - 1),
            st.integers(0, 10**9 - 1),
        ),
        max_size=5,
    ).map(tuple),
)


@settings(deadline=None)
@given(wide_positions)
def test_a_position_in_several_logs_reads_back_as_it_was_written(position):
    text = str(position)
    assert text.startswith("p2-" if position.since or position.others else "p1-")
    assert Position.parse(text) == position
    assert is_position(text)


def test_a_position_is_in_no_more_logs_than_there_can_be():
    other = (ORIGIN, (1 << 63) - 1, 10**9 - 1, 10**9 - 1)
    most = Position(*other, (1 << 63) - 1, (other,) * (limits.PLACES_MAX - 1))
    assert len(str(most)) <= limits.POSITION_CHARACTERS_MAX
    assert Position.parse(str(most)) == most
    for others in ((other,) * limits.PLACES_MAX, ((ORIGIN, 1, 1, 1),) * limits.PLACES_MAX):
        with pytest.raises(InvalidArgument, match=r"msg\.position"):
            Position.parse(str(Position(*other, 1, others)))


@settings(deadline=None)
@given(positions)
def test_a_position_reads_back_as_it_was_written(position):
    assert Position.parse(str(position)) == position


@settings(deadline=None)
@given(positions, positions)
def test_positions_of_one_log_are_in_its_order(one, other):
    other = Position(one.origin, other.lsn, other.slot, other.index)
    assert (one < other) is ((one.lsn, one.slot, one.index) < (other.lsn, other.slot, other.index))


@pytest.mark.parametrize(
    "text",
    [
        "", "new", "5", f"p1-{ORIGIN}", f"p1-{ORIGIN}-1-2", f"p1-{ORIGIN}-1-2-3-4",
        f"p2-{ORIGIN}-1-2-3", f"p1-{ORIGIN[:-1]}-1-2-3", f"p1-{ORIGIN.upper()}-1-2-3",
        f"p1-{ORIGIN}--1-2-3", f"p1-{ORIGIN}-1-2-3\n", f" p1-{ORIGIN}-1-2-3",
        f"p1-{ORIGIN}-{'9' * 20}-2-3", f"p1-{ORIGIN}-1-{'9' * 10}-3", f"p1-{ORIGIN}-1-2-٣",
        f"p1-{ORIGIN}-1-2-x", f"p1-{ORIGIN}-1-2-3-4-{ORIGIN}-1-2-3", f"p2-{ORIGIN}-1-2-3-4-5",
        f"p2-{ORIGIN}-1-2-3-{1 << 63}", f"p2-{ORIGIN}-1-2-3-4-{ORIGIN}-1-2",
        f"p2-{ORIGIN}-1-2-3--4", f"p2-{ORIGIN}-1-2-3-4-{ORIGIN}-1-2-3-",
    ],
)  # fmt: skip
def test_what_is_no_position_is_refused_and_told_where_to_take_one(text):
    with pytest.raises(InvalidArgument, match=r"msg\.position"):
        Position.parse(text)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (">", "a.b", "a.b"), ("a.>", "a", ""), ("a.>", "*.b.>", "a.b.>"), ("a.>", "*.*", "a.*"),
        ("prices.>", "*.x", "prices.x"), ("$a.>", ">", ""), ("a.b", "a.b", "a.b"),
        ("a", "a.b", ""), ("*", "a", "a"), ("*.>", "a", ""), ("*.>", "a.b", "a.b"),
        ("a.*", "a", ""), ("*.b", "a.*", "a.b"), ("a.>", "b.>", ""), ("a.*", "a.>", "a.*"),
        ("*." + "y" * 200, "x" * 200 + ".*", ""),
    ],
)  # fmt: skip
def test_two_patterns_meet_in_one_or_none(one, other, both):
    assert meet(one, other) == meet(other, one) == both

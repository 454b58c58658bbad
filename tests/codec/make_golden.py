"""Bytes that must not change by accident: the wire and the log, one file a message.

``python -m tests.codec.make_golden`` writes them anew; do that only for a change of the wire or
the log that is meant, and say so in the changelog. Where fields are added to a frame that nodes of
one site exchange, keep what it was in ``golden_earlier/``: it must still be read as it was meant.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from meshmq import codec, codec_log
from meshmq.core import directory_rows
from meshmq.core.directory_rows import Forgotten, GroupRow, LinkRow, RuleRow, Stamp, TopicRow
from meshmq.core.log import (
    BatchEntry,
    Commit,
    LogState,
    ProducerState,
    RuleEntry,
    StreamState,
    TopicEntry,
    TrimEntry,
)
from meshmq.core.mirror_log import LinkedEntry, MirrorEntry, MirrorState, StrandEntry, StrandsEntry
from meshmq.core.retention import Portion, SegmentInfo
from meshmq.frames import (
    ACK,
    BACKOFF,
    DURABLE_ONLY,
    EACH,
    NACK,
    ONE,
    PULL,
    SERVICE,
    START_POSITION,
    STREAM,
    SUBSCRIPTION,
    SYNCED,
    Bye,
    Cancel,
    Command,
    Confirm,
    Confirmation,
    Consume,
    Consumed,
    Credit,
    Deliver,
    DeliverBatch,
    DirectoryFrame,
    Drained,
    Envelope,
    Gap,
    Grant,
    HandOut,
    HandOutRow,
    Hello,
    Holding,
    Interest,
    Interests,
    Introduce,
    Known,
    KnownPeer,
    Leave,
    Lend,
    Lent,
    Moved,
    NodeFacts,
    Noted,
    NotedRow,
    Nothing,
    Offer,
    Offers,
    Owner,
    Ping,
    Place,
    Publish,
    PublishBatch,
    Published,
    Pulse,
    Refuse,
    Reply,
    ReplyRow,
    Request,
    RequestRow,
    Result,
    Revoke,
    Route,
    Routes,
    Serve,
    Served,
    Settle,
    Settled,
    SettleRow,
    SiteInterests,
    Streams,
    StreamsRow,
    Subscribe,
    Subscribed,
    Transact,
    TransactAck,
    Transacted,
    Unserve,
    Unsubscribe,
    Wanted,
    Welcome,
    Window,
    WorkReady,
    WorkReadyRow,
)
from meshmq.frames_copies import (
    AskCopy,
    Copied,
    CopiedBatch,
    CopiedTopic,
    Copies,
    CopiesRow,
    Fetch,
    Fetched,
    LogOffer,
    LogOffers,
    Mirrored,
    MirroredRow,
    Strand,
    StrandPlace,
)
from meshmq.frames_site_words import (
    HandBack,
    HandedBack,
    HandedRun,
    SeenRow,
    SiteTaken,
    SiteWords,
    TakenRange,
)
from meshmq.frames_verify import CheckedBatch, CheckRange, RangeChecked

DIRECTORY = Path(__file__).with_name("golden")
SESSION = 0x0123_4567_89AB_CDEF
TIME_NS = 1_700_000_000_123_456_789
_strands = (
    Strand(2, 0, 2**40, 7, ((("größe",), ("a.tmp",)), (("orders.>",), ()))),
    Strand(0, 1, 1, 0, (((">",), ("orders.>", "größe")),)),
)
ORIGIN, PRODUCER, INSTANCE, TOPIC_ID = (bytes(range(i, i + 16)) for i in (16, 32, 48, 64))

HANDED = (HandedRun("billing", 7, 2**40, 3, 1_700_000_000_123, 2, 5), HandedRun("größe", 8, 0, 1))

# name -> values, keys, headers, times, time_ns
BATCHES = {
    "batch_lone": ([b"value"], None, None, None, TIME_NS),
    "batch_empty_value": ([b""], None, None, None, TIME_NS),
    "batch_values": ([b"one", b"", b"three of them"], None, None, None, TIME_NS),
    "batch_columns": (
        [b"one", b"two"],
        [b"key", b""],
        [codec.encode_headers({"trace": "ü", "n": ""}), b""],
        [TIME_NS, -1],
        0,
    ),
}
HEADERS = {"headers": {"trace": "ü", "raw": b"\xff".decode("utf-8", "surrogateescape")}}

_one = codec.encode_batch(*BATCHES["batch_lone"])
_packed = bytes.fromhex("28b52ffd6084020d00000161010083c27201")  # 900 times an "a"
_three = codec.encode_batch(*BATCHES["batch_values"])
_rows = (
    PublishBatch("orders.eu", 7, 6, 1, len(_one), codec.checksum(_one), True),
    PublishBatch("größe", 2**63, 5, 3, len(_three), codec.checksum(_three)),
)
_deliveries = (
    DeliverBatch(
        "orders.eu", 2**40, 1, len(_one), codec.checksum(_one), TIME_NS, 9, 3
    ),
    DeliverBatch("orders.us", 5, 2, 0, 77, TIME_NS, 9, 4, True),
    DeliverBatch("t", 0, 3, len(_three), codec.checksum(_three), 0, 0, 0),
)  # fmt: skip
_from_run = DeliverBatch("orders.eu", 9, 1, len(_one), codec.checksum(_one), 0, 0, 0, source=ORIGIN)
_moved = Moved(b"r" * 16, 4).pack()
_published = _deliveries[0]._replace(published=Published(b"p" * 16, 9, _moved))
_handed = (
    HandOutRow(
        "orders.eu", 77, 2**40, 2, 1, 3, len(_three), codec.checksum(_three), TIME_NS, 9, 3
    ),
    HandOutRow(
        "orders.eu", 78, 2**40, 1, 0, 1, len(_one), codec.checksum(_one), TIME_NS, 9, 4, 2, True,
        (2**40,), 2**63 + 5,
    ),
)  # fmt: skip
_done = Confirmation(
    "orders.eu", 7, 3, "", "", 2**40, TIME_NS, TOPIC_ID, SYNCED, 9, False, True
)  # fmt: skip
_refused = Confirmation("a", 8, 1, "sequence-gap", "sequence 8 follows 7", last=5)

_headers = codec.encode_headers({"trace": "ü"})

_set = Stamp(1_700_000_000_000 << 16 | 5, ORIGIN, "node-1")
_said = (
    RuleRow("orders.>", _set, True, 7 * 86_400 * 10**9, 0),
    RuleRow("x", _set, True, 0, 0, True),
    TopicRow(TOPIC_ID, "orders.eu", True, _set, kept=_set, retention_bytes=5),
    TopicRow(PRODUCER, "old", False, _set, _set),
    GroupRow("billing", _set, _set, '{"kind":"group","pattern":"orders.>"}'),
    Forgotten(b"rorders.old"),
)
_paused = (LinkRow("eu", _set, True), LinkRow("us", _set, False))

FRAMES = {
    name: Envelope(SESSION, sequence, 41, body)
    for name, sequence, body in (
        ("hello", 0, Hello(1, 0, "local", INSTANCE, PRODUCER, "shop", "meshmq 0.1")),
        ("welcome", 0, Welcome(1, 0, ORIGIN, "node-1", "meshmq 0.1", 8 << 20)),
        (
            "hello_direct",
            0,
            Hello(
                1,
                4,
                "local",
                INSTANCE,
                PRODUCER,
                "shop",
                "meshmq 0.1",
                True,
                ("tcp://127.0.0.1:7001", "ipc:///tmp/shop"),
            ),
        ),
        (
            "welcome_direct",
            0,
            Welcome(1, 4, INSTANCE, "shop", "meshmq 0.1", 0, True, ("tcp://127.0.0.1:7001",)),
        ),
        ("refuse", 0, Refuse("mesh-mismatch", "the node belongs to mesh 'b'")),
        ("nothing", 0, Nothing()),
        ("gap", 0, Gap()),
        ("ping", 0, Ping()),
        ("bye", 0, Bye()),
        ("publish_one", 42, Publish(_rows[:1], _one)),
        ("publish_of_run", 42, Publish((_rows[0]._replace(of_run=True),), _one)),
        ("publish_two", 42, Publish(_rows, _one + _three)),
        ("confirm_one", 42, Confirm((_done,))),
        ("confirm_two", 42, Confirm((_refused, _done))),
        (
            "subscribe",
            42,
            Subscribe(3, "orders.>", START_POSITION, -1, ORIGIN, 9, 4, 4 << 20, 65_536),
        ),
        (
            "subscribe_places",
            42,
            Subscribe(
                3,
                "orders.>",
                START_POSITION,
                TIME_NS,
                ORIGIN,
                9,
                4,
                4 << 20,
                65_536,
                DURABLE_ONLY,
                (Place(TOPIC_ID, 2**40, 7), Place(INSTANCE, 1, 0)),
            ),
        ),
        ("subscribed", 42, Subscribed(3, "", "", ORIGIN, 9, 5, 12, TIME_NS)),
        ("subscribed_no", 42, Subscribed(3, "invalid-name", "no pattern")),
        ("unsubscribe", 42, Unsubscribe(3)),
        ("credit", 42, Credit(3, 1 << 20, 16_384)),
        ("window", 43, Window(1 << 21, 100_000_000)),
        ("deliver_one", 42, Deliver(3, _deliveries[:1], 0, _one)),
        ("deliver_three", 42, Deliver(3, _deliveries, 6, _one + _three)),
        (
            "deliver_missing",
            42,
            Deliver(0, (DeliverBatch("t", 17, 3, 0, 0, 0, 0, 0, missing=True),), 0, b""),
        ),
        (
            "interests",
            42,
            Interests(
                3,
                True,
                (
                    Interest(1, SUBSCRIPTION, "orders.>"),
                    Interest(2, PULL, "größe"),
                    Interest(3, SERVICE, "pricing.quote", 8),
                ),
            ),
        ),
        ("interests_changed", 42, Interests(4, False, (), (1, 2**32 - 1))),
        ("noted", 42, Noted(3, True, (NotedRow("orders.eu", 2**40, 7), NotedRow("größe", 1)))),
        ("noted_more", 42, Noted(4, False, (), True)),
        ("interests_node", 42, Interests(5, False, node=ORIGIN)),
        ("publish_routed", 42, Publish((_rows[0]._replace(numbered=True, routed=True),), _one)),
        ("deliver_source", 42, Deliver(1, (_from_run,), 0, _one)),
        ("deliver_origin", 42, Deliver(1, (_deliveries[0]._replace(origin=ORIGIN),), 0, _one)),
        ("deliver_site", 42, Deliver(0, (_from_run._replace(site="eu"),), 0, _one)),
        ("deliver_marker", 42, Deliver(1, (DeliverBatch("", *[0] * 7, source=ORIGIN),), 0, b"")),
        ("confirm_waits", 42, Confirm((_done._replace(message="why", more=True),))),
        ("publish_mirrored", 42, Publish((_rows[0]._replace(mirrors=16),), _one)),
        ("confirm_unwanted", 42, Confirm((_done._replace(unwanted=True),))),
        ("routes", 42, Routes((Route(ORIGIN), Route(b"r" * 16, (1, 7))), (Route(b"s" * 16),))),
        ("wanted", 42, Wanted(("orders.eu", "größe"))),
        (
            "introduce",
            42,
            Introduce(
                b"r" * 16,
                "shop",
                ("tcp://10.0.0.2:7001",),
                ("orders.>",),
                ("pricing.quote",),
                3600 * 10**9,
            ),
        ),
        (
            "known",
            42,
            Known(
                (
                    KnownPeer(b"r" * 16, False, "shop", ("tcp://10.0.0.2:7001",)),
                    KnownPeer(ORIGIN, True, "größe", ()),
                )
            ),
        ),
        (
            "hello_node",
            0,
            Hello(
                1,
                7,
                "plant",
                ORIGIN,
                PRODUCER,
                "node-1",
                "meshmq 0.1",
                False,
                ("tcp://10.0.0.1:5758",),
                NodeFacts(7, "eu", ("tcp://10.0.0.1:5757",), True),
            ),
        ),
        (
            "welcome_node",
            0,
            Welcome(
                1,
                7,
                ORIGIN,
                "node-1",
                "meshmq 0.1",
                8 << 20,
                False,
                ("tcp://10.0.0.1:5758",),
                NodeFacts(7, "eu"),
            ),
        ),
        ("site_interests", 42, SiteInterests(True, ("orders.>", "a"), ("b.*",), True, 9)),
        ("pulse", 42, Pulse(2**40, True)),
        (
            "streams",
            42,
            Streams(
                3,
                (
                    StreamsRow(ORIGIN, "node-2", False, 2**40, 7),
                    StreamsRow(INSTANCE, "größe", True),
                ),
            ),
        ),
        ("ask_copy", 42, AskCopy(1)),
        ("fetch", 42, Fetch(3, ORIGIN, 2**40, 7, 4 << 20, 1)),
        ("fetch_one", 42, Fetch(4, ORIGIN, topic_id=TOPIC_ID, offset=2**41)),
        (
            "fetched",
            42,
            Fetched(
                3,
                (CopiedTopic(5, TOPIC_ID, "orders.eu", 12), CopiedTopic(6, ORIGIN, "old", 0, True)),
                (
                    CopiedBatch(5, 12, 1, len(_one), 77, TIME_NS, 9, 0, False, PRODUCER, 4, _moved),
                    CopiedBatch(5, 13, 3, 0, 0, TIME_NS, 9, 2, True, bytes(16), 0),
                ),
                9,
                3,
                _one,
            ),
        ),
        ("fetched_end", 42, Fetched(3, (CopiedTopic(5, TOPIC_ID, "orders.eu", 12, end=2**40),))),
        ("fetched_begins", 42, Fetched(3, (CopiedTopic(5, TOPIC_ID, "a", 12, begins=2**41),))),
        ("fetch_packs", 42, Fetch(5, ORIGIN, 9, 1, 1 << 20, packs=True)),
        (
            "fetched_packed",
            42,
            Fetched(
                3,
                (),
                (CopiedBatch(5, 12, 1, 900, 77, TIME_NS, 9, 0, False, PRODUCER, 4),),
                9,
                1,
                _packed,
                size=900,
                flight=70_000,
            ),
        ),
        ("fetched_no", 42, Fetched(3, code="copy-ahead", message="the copy has more")),
        ("fetched_streams", 42, Fetched(3, strand=2, streams=(1, 2**32 - 1))),
        ("fetched_places", 42, Fetched(3, strand=2, places=(StrandPlace(2, 2**40, 7),))),
        ("copied_places", 42, Copied(ORIGIN, 9, 3, 1 << 20, places=(StrandPlace(2, 2**40, 7),))),
        ("copied", 42, Copied(ORIGIN, 9, 3, 1 << 20)),
        ("copied_lacks", 42, Copied(ORIGIN, 9, 3, 0, True)),
        ("copied_problem", 42, Copied(ORIGIN, 9, 3, 0, problem="größe")),
        ("copied_holes", 42, Copied(ORIGIN, 9, 3, 0, holes=True)),
        ("copies", 42, Copies((CopiesRow(ORIGIN, "node-2", 9, 3, 2, INSTANCE, 8, 1),))),
        (
            "copies_more",
            42,
            Copies((CopiesRow(ORIGIN, "node-2", 9, 3, 0, b"", 0, 0, True, 2**41, 2**40, 7),)),
        ),
        (
            "copies_strands",
            42,
            Copies(
                (
                    CopiesRow(
                        ORIGIN,
                        "eu/node-2",
                        9,
                        3,
                        strands=_strands,
                        topics=("orders.>",),
                        exclude=("größe",),
                        since=TIME_NS,
                    ),
                )
            ),
        ),
        (
            "hello_far_node",
            0,
            Hello(
                1,
                7,
                "plant",
                ORIGIN,
                PRODUCER,
                "node-1",
                "meshmq 0.1",
                node=NodeFacts(7, "eu", (), False, "us"),
            ),
        ),
        (
            "fetch_topics",
            42,
            Fetch(
                3, ORIGIN, 2**40, 7, 64 << 20, strands=_strands, since=TIME_NS, had=((5, 2**33),)
            ),
        ),
        ("check_range", 42, CheckRange(3, ORIGIN, TOPIC_ID, 7, (9, 2**40), True)),
        (
            "range_checked",
            42,
            RangeChecked(
                3,
                7,
                2**40,
                (ORIGIN, INSTANCE),
                (CheckedBatch(7, 2, True, b""), CheckedBatch(9, 1, False, ORIGIN)),
            ),
        ),
        ("range_not_checked", 42, RangeChecked(3, code="not-found", message="not there")),
        (
            "mirrored",
            42,
            Mirrored(
                ORIGIN,
                (
                    MirroredRow("us", ((("orders.>",), ()),), 1, 0, 2**40, 3),
                    MirroredRow("größe", ((("audit.*",), ("a.tmp",)),), 7, 1, 9, 0),
                ),
            ),
        ),
        (
            "log_offers",
            42,
            LogOffers(
                (
                    LogOffer(ORIGIN, "node-1", "eu", 2**40, 0),
                    LogOffer(
                        INSTANCE,
                        "größe",
                        "us",
                        9,
                        3,
                        ("orders.>", "audit.*"),
                        ("a.tmp",),
                        strands=_strands,
                        since=TIME_NS,
                    ),
                    LogOffer(INSTANCE, "node-3", "us", 9, 3, ("orders.>",), partial=True),
                )
            ),
        ),
        (
            "site_words",
            42,
            SiteWords(
                60_000,
                (SeenRow("us", True), SeenRow("größe", False, 2**40)),
                (
                    SiteTaken(
                        ORIGIN,
                        "node-1",
                        "us",
                        2**40,
                        "eu",
                        INSTANCE,
                        (1, 2**32 - 1),
                        (TakenRange(7, 0, 2**40),),
                        True,
                        True,
                    ),
                ),
                (CopiesRow(ORIGIN, "", 0, 0, 3, INSTANCE, 2**40, 7),),
            ),
        ),
        ("hand_back", 42, HandBack(2**40, 7, HANDED)),
        ("handed_back", 42, HandedBack(2**40, 7, HANDED)),
        (
            "offers",
            42,
            Offers(
                7, True, True, (Offer(1, "pricing.quote", 2, 16, 3, 0), Offer(2, "", 0, 0, 0, 9))
            ),
        ),
        ("offers_asks", 42, Offers(8, asks=True, patterns=("quote.>", "größe.*"))),
        ("directory", 42, DirectoryFrame(3, directory_rows.pack(_said))),
        ("directory_links", 43, DirectoryFrame(3, directory_rows.pack(_paused))),
        ("drained", 42, Drained((KnownPeer(ORIGIN, True, "größe", ("tcp://10.0.0.2:7001",)),))),
        (
            "refuse_drains",
            0,
            Refuse("draining", "go", (KnownPeer(ORIGIN, True, "n", ("tcp://10.0.0.2:7001",)),)),
        ),
        ("hello_admin", 0, Hello(1, 7, "m", INSTANCE, PRODUCER, admin=True)),
        ("publish_moved", 42, Publish((_rows[0], _rows[1]._replace(moved=_moved)), _one + _three)),
        ("deliver_published", 42, Deliver(3, (_published,), 0, _one)),
        ("subscribe_dedup", 42, Subscribe(3, "a", 0, 0, b"", 0, 0, 9, 9, dedup=True)),
        ("subscribe_own_site", 42, Subscribe(3, "a", 0, 0, b"", 0, 0, 9, 9, own_site=True)),
        ("welcome_site", 0, Welcome(1, 7, ORIGIN, "n", "meshmq 0.1", 8 << 20, site="eu")),
        ("command", 42, Command(5, "topic.show", b'{"topic":"a"}')),
        ("result", 42, Result(5, "", "", b'{"records":3}')),
        (
            "consume",
            42,
            Consume(
                6,
                "billing",
                "orders.>",
                b'{"order":"key"}',
                4096,
                8 << 20,
                30 * 10**9,
                (Holding(2**62, "orders.eu", (2**40, 2**40 + 5), 2),),
            ),
        ),
        (
            "consume_behalf",
            42,
            Consume(
                9,
                "billing",
                "orders.>",
                b"{}",
                64,
                8 << 20,
                30 * 10**9,
                (Holding(2**62, "orders.eu", (5,), 1, b"o" * 16, 2**40),),
                b"o" * 16,
                b"i" * 16,
                "worker",
                3,
                7,
            ),
        ),
        ("consumed", 42, Consumed(6, "", "", 1, (2**62,))),
        ("consumed_origin", 42, Consumed(6, "", "", 0, (), b"o" * 16, True)),
        ("consumed_no", 42, Consumed(6, "group-mismatch", "another pattern")),
        ("hand_out", 42, HandOut(6, _handed, _three + _one)),
        ("hand_out_origin", 42, HandOut(6, _handed, _three + _one, b"o" * 16)),
        (
            "settle",
            42,
            Settle(
                6,
                9,
                (SettleRow(77, 0, 1000, ACK), SettleRow(78, 3, 1, NACK, BACKOFF, "größe")),
            ),
        ),
        ("settle_origin", 42, Settle(6, 9, (SettleRow(77, 0, 9, ACK),), b"o" * 16)),
        ("settled", 42, Settled(6, 9)),
        ("settled_origin", 42, Settled(6, 9, (), b"o" * 16)),
        ("settled_stale", 42, Settled(6, 9, (SettleRow(78, 3, 1, NACK, 0, "taken back"),))),
        ("revoke", 42, Revoke(6, (SettleRow(78, 3, 2, 0),))),
        ("revoke_origin", 42, Revoke(6, (SettleRow(78, 3, 2, 0),), b"o" * 16)),
        ("leave", 42, Leave(6)),
        ("leave_lost", 42, Leave(6, True)),
        ("work_ready", 42, WorkReady((WorkReadyRow("billing", 2**40), WorkReadyRow("q", 0)))),
        ("lend", 42, Lend(6, 3, 64, 8 << 20, True, True)),
        ("lent", 42, Lent(6, 3)),
        ("owner", 42, Owner(6, b"o" * 16, "node-2", True)),
        ("owner_fenced", 42, Owner(6, b"o" * 16, fenced="site us has no link")),
        ("transact", 42, Transact(4, (TransactAck(6, 77, 2, 3),), _rows, _one + _three)),
        (
            "transact_origin",
            42,
            Transact(4, (TransactAck(6, 77, 2, 3),), _rows, _one + _three, b"o" * 16, b"i" * 16),
        ),
        ("transacted", 42, Transacted(4, "", "", (2**40, 5), (7, 2**63 + 5))),
        ("transacted_origin", 42, Transacted(4, "", "", (5,), (7,), b"o" * 16)),
        ("serve", 42, Serve(7, "pricing.quote", 8)),
        ("served", 42, Served(7)),
        ("served_ended", 42, Served(7, ended=True)),
        ("served_no", 42, Served(7, "limit", "too many")),
        ("unserve", 42, Unserve(7)),
        (
            "request_to_node",
            42,
            Request(
                (
                    RequestRow(9, 0, "pricing.quote", 10**9, ONE, True, 0, b"", 3),
                    RequestRow(10, 0, "prices", 2 * 10**9, STREAM, False, 1 << 20, _headers, 0),
                    RequestRow(2**63, 0, "all", 1, EACH, False, 0, b"", 2),
                ),
                b"onetw",
            ),
        ),
        (
            "request_to_instance",
            42,
            Request((RequestRow(77, 7, "", 999_000_000, ONE, False, 0, b"", 3),), b"one"),
        ),
        ("reply_one", 42, Reply((ReplyRow(9, True, True, instance="a", length=4),), b"four")),
        (
            "reply_three",
            42,
            Reply(
                (
                    ReplyRow(10, True, False, instance="a", length=2),
                    ReplyRow(10, False, True),
                    ReplyRow(11, False, True, "service-error", "not-found", "no such price", "b"),
                ),
                b"xy",
            ),
        ),
        ("cancel", 42, Cancel((9, 2**63))),
        ("grant", 42, Grant(10, 1 << 19)),
        ("result_no", 42, Result(5, "topic-not-found", "there is no topic 'a'", b"{}")),
    )
}

_stored = (
    BatchEntry(1, 2**40, 1, _one, codec.checksum(_one), PRODUCER, 7),
    BatchEntry(2, 5, 3, _three, codec.checksum(_three), INSTANCE, 2**63),
)
_topic = TopicEntry(1, TOPIC_ID, "orders.eu", True, 7 * 86_400 * 10**9, 10 << 30)
_rule = RuleEntry("orders.>", True, 7 * 86_400 * 10**9, 0)

_linked = LinkedEntry(INSTANCE, "us", ("orders.>", "größe"), ("orders.tmp.*",), ("größe",), TIME_NS)
_by_strands = StrandsEntry(INSTANCE, _strands)
_mirror = MirrorEntry(INSTANCE, "node-2", 2**40, 3)

# name -> commit, start, inline
COMMITS = {
    "commit_batches": (Commit(9, TIME_NS, _stored), 4096, False),
    "commit_inline": (Commit(9, TIME_NS, _stored[:1]), 0, True),
    "commit_all": (
        Commit(
            10, TIME_NS, _stored, (_topic, _topic._replace(name="old", deleted=True)),
            (_rule, _rule._replace(pattern="x", removed=True)), (TrimEntry(1, 2**40),),
        ),
        7,
        True,
    ),
    "commit_directory": (Commit(11, TIME_NS, _stored, directory=_said), 0, False),
    "commit_links": (Commit(11, TIME_NS, _stored, directory=_paused), 0, False),
    "commit_linked": (Commit(12, TIME_NS, (), mirrors=(_linked, _mirror)), 0, False),
    "commit_strands": (
        Commit(
            13, TIME_NS, (), (_topic._replace(origin=INSTANCE, source=7, strand=2),),
            mirrors=(_by_strands, StrandEntry(INSTANCE, 2, 2**40, 3)),
        ),
        0,
        False,
    ),
}  # fmt: skip


def _state(mirrors: dict[bytes, MirrorState] | None = None) -> LogState:
    held = StreamState(_topic, 2**40 + 1, 12)
    transient = StreamState(TopicEntry(0, ORIGIN, "t", False, 0, 0))
    return LogState(
        ORIGIN, 10, TIME_NS, 3, {"orders.eu": held, "t": transient}, {1: held},
        {"orders.>": _rule},
        OrderedDict({(PRODUCER, 1): ProducerState(9, TIME_NS, [(1, 0, 5), (7, 2**40, 3)])}),
        directory={row.key: row for row in _said if not isinstance(row, Forgotten)},
        mirrors=mirrors or {},
    )  # fmt: skip


_segments = [SegmentInfo(1, 1, 8, 5, 6, {1: Portion(1, 1, 0, 12, 345, 6)})]

SNAPSHOTS = {
    "snapshot": (_state(), _segments),
    "snapshot_linked": (
        _state(
            {
                INSTANCE: MirrorState(
                    "node-2", 2**40, 3, linked=_linked, strands={s.number: s for s in _strands}
                ),
                PRODUCER: MirrorState("node-3", 9, 0, lacks=True),
            }
        ),
        _segments,
    ),
}


def encoded() -> dict[str, bytes]:
    """What each file must hold; a frame's batches are in a file of their own."""
    found: dict[str, bytes] = {}
    for name, frame in FRAMES.items():
        header, *payload = codec.encode(frame)
        found[f"{name}.bin"] = header
        if payload:
            found[f"{name}.payload.bin"] = payload[0]
    for name, columns in BATCHES.items():
        found[f"{name}.bin"] = codec.encode_batch(*columns)
    for name, headers in HEADERS.items():
        found[f"{name}.bin"] = codec.encode_headers(headers)
    for name, commit in COMMITS.items():
        found[f"{name}.bin"] = codec_log.encode_commit(*commit)
    for name, (state, segments) in SNAPSHOTS.items():
        found[f"{name}.bin"] = codec_log.encode_snapshot(state, segments)
    return found


def main() -> None:
    DIRECTORY.mkdir(exist_ok=True)
    for old in DIRECTORY.glob("*.bin"):
        old.unlink()
    for name, data in encoded().items():
        (DIRECTORY / name).write_bytes(data)


if __name__ == "__main__":
    main()

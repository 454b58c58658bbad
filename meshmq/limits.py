"""Every bound there is, with its unit and its reason.

What reaches a bound is answered (an error, a refusal, a counted drop); nothing grows past it.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
MS = 1_000_000
SECOND = 1_000_000_000
DAY = 24 * 3600 * SECOND

# --- names ---------------------------------------------------------------------------------
TOPIC_BYTES_MAX = 255  # fits one length byte in gateways; NATS and MQTT users stay far below
TOPIC_TOKENS_MAX = 16
MESH_BYTES_MAX = 64
PEER_NAME_MAX = 255  # characters, for people

# --- records and batches -------------------------------------------------------------------
VALUE_BYTES_MAX = 1 * MIB  # NATS has the same default; larger messages get their own feature
KEY_BYTES_MAX = 1 * KIB
HEADER_COUNT_MAX = 32
HEADER_BYTES_MAX = 4 * KIB
BATCH_BYTES_TARGET = 64 * KIB  # a batch is closed when its records reach this; larger gained <5 %
BATCH_RECORDS_MAX = 4096  # keeps one batch's decode under about 1 ms
BATCH_BYTES_MAX = VALUE_BYTES_MAX + 64 * KIB  # one largest record with key, headers, pointers
LARGE_VALUE_BYTES = 512 * KIB  # above, it may not fit into a batch that is almost full

# --- frames --------------------------------------------------------------------------------
FRAME_PAYLOAD_BYTES_MAX = BATCH_BYTES_MAX
FRAME_PAYLOAD_BYTES_TARGET = 256 * KIB  # small batches of many topics travel together up to this
FRAME_HEADER_BYTES_MAX = 1152 * KIB  # a largest Result; FRAME_BATCHES_MAX rows or refusals fit too
FRAME_PARTS_MAX = 2
FRAME_BATCHES_MAX = 1024
COMMAND_BYTES_MAX = 64 * KIB
ROUTES_LISTED_BYTES_MAX = 512 * KIB  # of a list of who has what directly; then it ends
RESULT_BYTES_MAX = 1 * MIB

# --- session -------------------------------------------------------------------------------
PING_INTERVAL_NS = 1 * SECOND
LINK_SILENT_NS = 3 * SECOND  # three pings missed
HELLO_RETRY_NS = 250 * MS
ACK_DELAY_NS = 40 * MS  # an ack rides on other frames; alone only when nothing else leaves
ACK_FRAMES_MAX = 32  # ... or when this many frames are unacknowledged
RESEND_NS = 1 * SECOND  # far above any round trip: TCP loses nothing while a link lives
RESEND_FRAMES_MAX = 64  # so many at once; once they have come the next ones follow
GAP_INTERVAL_NS = 20 * MS
SESSION_UNACKED_FRAMES_MAX = 16_384
SESSION_UNACKED_BYTES_MAX = 64 * MIB
SESSIONS_MAX = 1024
RECONNECT_NS_MIN = 50 * MS
RECONNECT_NS_MAX = 2 * SECOND

# --- producer ------------------------------------------------------------------------------
PRODUCER_IN_FLIGHT_BYTES_MAX = 8 * MIB  # sent, not confirmed
PRODUCER_IN_FLIGHT_BATCHES_MAX = 4096
PRODUCER_UNSYNCED_BYTES_MAX = 24 * MIB  # one producer at a node: a window, resends of it, slack
UNSYNCED_BYTES_MAX = 96 * MIB  # all producers at a node; then they get Busy
BUSY_RETRY_NS = 100 * MS  # a slow disk syncs some MiB in that time
PRODUCER_BUFFER_BYTES_MAX = 32 * MIB  # accepted by publish(), not confirmed; then block or fail
PARTIAL_FRAMES_IN_FLIGHT = 2  # a partly filled batch waits while so many frames are unconfirmed
RECORD_OVERHEAD_BYTES = 32  # accounted per record besides its bytes: pointers, padding, receipt
PRODUCER_RECENT_RANGES_MAX = 256  # confirmed ranges a node remembers to answer a resend
PRODUCER_FORGET_NS = 7 * DAY
PRODUCER_TOLD_MAX = 100  # topics in one word to a node about what is stored of a producer
PRODUCER_ASKINGS_MAX = 1024  # programs that wait to be told of their producers, of some KiB each
PRODUCER_ASK_NS = 1 * SECOND  # so long nodes have to come that may know more of a producer
NODE_SAID_NS = 12 * 3600 * SECOND  # how often a node says that it is one of its site
PRODUCER_SWEEP_NS = 3600 * SECOND
PRODUCERS_MAX = 100_000  # (producer, topic) pairs a node remembers; the oldest are forgotten
TRANSIENT_PRODUCERS_MAX = 1024  # a transient topic remembers so many, in memory only

# --- subscriptions -------------------------------------------------------------------------
SUBSCRIPTIONS_PER_SESSION_MAX = 1024
CREDIT_BYTES_DEFAULT = 16 * MIB  # of a flood this is some 0.1 s; 4 MiB let publishers run dry
CREDIT_BYTES_MAX = 64 * MIB
CREDIT_RECORDS_DEFAULT = 262_144
CREDIT_RECORDS_MAX = 1_000_000
TRANSIENT_QUEUE_BYTES_MAX = 4 * MIB  # waiting for one subscriber's credit; then its oldest drop
TRANSIENT_QUEUES_BYTES_MAX = 64 * MIB  # of all subscriptions of a node together
DELIVERED_BYTES_MAX = 128 * MIB  # sent and unacknowledged, of all sessions of a node together
DELIVER_BYTES_MAX = 256 * KIB  # small batches share a frame up to this
READ_BYTES_MAX = 1 * MIB  # one read of the log for one subscriber
RECENT_BYTES_MAX = 16 * MIB  # newest commits kept in memory for subscribers a little behind
TOPICS_MAX = 100_000
DAMAGE_TOLD_MAX = 100  # damaged ranges that ``status`` lists; all are counted

# --- groups and queues ---------------------------------------------------------------------
GROUPS_MAX = 1024
MEMBERS_PER_SESSION_MAX = 256
MEMBERS_PER_NODE_MAX = 65_536  # of programs at another node of the site, some 400 bytes each
PREFETCH_RECORDS_DEFAULT = 4096  # of small records some 10 ms of a flood; RabbitMQ users know 300
PREFETCH_RECORDS_MAX = 100_000
PREFETCH_BYTES_DEFAULT = 8 * MIB
PREFETCH_BYTES_MAX = 64 * MIB
ACK_TIMEOUT_NS_DEFAULT = 30 * SECOND
ACK_TIMEOUT_NS_MIN = 100 * MS
ACK_TIMEOUT_NS_MAX = DAY
ORPHANED_NS = 500 * MS  # a lost session's hand-outs wait so long for their member to come back
MOVED_NS = 5 * SECOND  # those of programs of a node that is gone: they go to another one
STARTED_NS = 1 * SECOND  # so do those of before a restart: links need up to 3 s, most are back
MAX_DELIVERIES_DEFAULT = 5
MAX_DELIVERIES_MAX = 1000
BACKOFF_NS_DEFAULT = 1 * SECOND  # doubled with every attempt ...
BACKOFF_NS_MAX_DEFAULT = 5 * 60 * SECOND  # ... up to this
DELAY_NS_MAX = 365 * DAY
DELAY_NS_MIN = 1 * MS
MAX_HELD_DEFAULT = 1_000_000  # records behind a key that waits; 8 bytes each
PRIORITY_MAX = 9
DEDUP_NS_DEFAULT = 10 * 60 * SECOND
DEDUP_NS_MAX = 7 * DAY  # as long as producers are known
DEDUP_IDS_MAX = 1_000_000  # ids a node remembers, about 200 bytes each
REASON_BYTES_MAX = 1 * KIB  # of a nack or reject: error text, the end of a job's stderr
GROUP_READ_BYTES_MAX = 256 * KIB  # records that are due again are fetched in reads of this
GROUP_READY_BYTES_MAX = 1 * MIB  # read ahead of the members' credit
SETTLE_ROWS_MAX = 1024
HAND_OUTS_REMEMBERED_MAX = 4096  # finished ones whose acks may be said again after a lost link
ACKED_RUNS_REMEMBERED_MAX = 65_536  # of all of those together, some 130 bytes each
SETTLE_FRAMES_IN_FLIGHT = 2  # acks gather while so many frames of them are unconfirmed
MARK_MEMORY_BYTES = 512  # about what a record that failed or waits for its retry costs
TRANSACTION_RECORDS_MAX = 1024
TRANSACTIONS_PASSED_MAX = 4096  # of our programs, on their way at other nodes; a program has one
TRANSACTIONS_REMEMBERED_MAX = 10_000  # programs whose last transaction is known
TRANSACTION_OFFSETS_REMEMBERED_MAX = 262_144  # of all of those together, 40 bytes each
LENT_NS = 100 * MS  # an owner's turn with a member's credit, where others have work too ...
LENT_RECORDS = 4096  # ... or so many records: moving it costs two round trips
LISTINGS_MAX = 64  # commands that wait for other nodes of a site, of up to 1 MiB an answer
LISTING_NS = 1 * SECOND  # then who has not answered is named; a node answers in some ms
READY_NS = 5 * MS  # between two words to a node about how much of a group's work is ready
TRIM_RECORDS_MIN = 10_000  # what is done of a queue is given back in steps of this

# --- services ------------------------------------------------------------------------------
SERVICES_PER_SESSION_MAX = 256
ROW_OVERHEAD_BYTES = 96  # a request or reply in a frame besides its value and texts, at most
CONCURRENCY_MAX = 1024  # requests an instance may have at a time
INSTANCE_BYTES_MAX = 16 * MIB  # of them together, or one larger one
CALLS_UNACKED_BYTES_MAX = SESSION_UNACKED_BYTES_MAX // 2  # of a program's requests and replies;
CALLS_UNACKED_FRAMES_MAX = SESSION_UNACKED_FRAMES_MAX // 2  # then they wait: the rest is for others
REQUESTS_PER_SESSION_MAX = 16_384  # of one program without their last reply
REQUESTS_BYTES_MAX = 64 * MIB  # of all that are under way at a node; then they get Busy
REQUESTS_SHARE_BYTES_MAX = 16 * MIB  # of those, what one program may have
REQUEST_OVERHEAD_BYTES = 768  # about what a request costs a node in memory besides its bytes
REQUESTS_UNACKED_BYTES = 16 * MIB  # unacknowledged by an instance's session; then requests wait
REPLIES_UNACKED_BYTES = 16 * MIB  # unacknowledged by a requester's; then its replies wait ...
CROWDED_UNACKED_BYTES = 64 * KIB  # of each while all sessions have more than DELIVERED_BYTES_MAX
REPLY_BACKLOG_BYTES_MAX = 16 * MIB  # ... up to this; the rest is dropped and told ...
REPLY_TOLD_BYTES_MAX = 8 * MIB  # ... in so many bytes: a notice for all it may have under way
REPLY_BACKLOGS_BYTES_MAX = 64 * MIB  # of all that wait at a node; then who has most bears it
SERVICES_UNACKED_FRAMES = 4096  # a quarter of what ends a session; then what leaves gathers
REQUEST_ATTEMPTS_MAX = 3  # instances that an idempotent request may lose, and sessions
REQUEST_TIMEOUT_NS_MAX = DAY
STREAM_WINDOW_BYTES = 1 * MIB  # of a streamed reply on its way; a largest value always fits
STREAM_WINDOW_BYTES_MAX = 64 * MIB
SERVICE_TEXT_MAX = 4096  # characters of an error's text
LATENCY_SPAN_NS = 60 * SECOND  # percentiles are of this minute and the one before

# --- between programs ----------------------------------------------------------------------
DIRECT_PEERS_MAX = 256  # sessions of one program with others
DIRECT_PEERS_REMEMBERED_MAX = 1024  # programs whose numbers are known, so that a gap is seen
CROSSING_NS = 1 * SECOND  # two that dial each other at once have two links for less than this
INTERESTS_MAX = 2048  # of one program; with the longest names they fit one frame
DIRECT_QUEUE_BYTES_MAX = 8 * MIB  # waiting for one subscription's credit; then its oldest drop
DIRECT_BATCH_BYTES = 260 * KIB  # four values of 64 KiB: a batch costs 0.1 ms at both ends
DIRECT_LEAST_RECORDS = 64  # of a window one program gets, however many share it ...
DIRECT_LEAST_BYTES = BATCH_BYTES_TARGET  # ... and bytes: a batch
DIRECT_IN_FLIGHT_BYTES = 4 * MIB  # of a program; below that queue, or a flood drops what waits
GAP_TOLD_NS = 100 * MS  # what was dropped is told with what follows, or after this
STALLED_NS = 500 * MS  # a flood waits so long for its fastest subscriber, then no more for it
SETTLE_NS = 200 * MS  # connecting waits so long for the programs of its peers list
LOOK_NS = 1500 * MS  # ... and for a node, where none is named; mDNS repeats nothing within a second
LOOK_LEAST_NS = 300 * MS  # ... also if there is a program, that knows of no node
NOTED_NS = 1 * SECOND  # subscribing waits so long for programs that do not answer
PUSH_WAIT_NS = 5 * SECOND  # a push waits so long for somebody who pulls
PULL_RECORDS_DEFAULT = 256  # shared out in small runs, or one gets what many could do
PULL_RECORDS_MAX = 65_536

# --- directly and through a node -----------------------------------------------------------
EARLY_INTERESTS_MAX = 64  # frames with interests that the node has not allowed yet
DIRECT_FANOUT_MAX = 8  # programs a topic goes to directly; to more a node passes it on cheaper
ROUTE_WAIT_NS = 1 * SECOND  # what came by a new route waits so long for what is on the old one
ROUTE_SILENT_NS = 500 * MS  # unacknowledged: the direct route fails, and the node takes over
ROUTE_HEARD_NS = 300 * MS  # what is not heard for so long does not bring what is missing
GAP_RECORDS_MAX = (1 << 32) - 1  # records a row can name as missing
GAPS_MAX = FRAME_BATCHES_MAX // 2  # not yet told to one subscription; then they are told at once
MARKER_BYTES = 256  # what a marker that waits counts for in a subscription's queue
UNWANTED_PER_SESSION_MAX = 1024  # topics a publisher was told of; the others it goes on sending ...
UNWANTED_MAX = 65_536  # ... and of all sessions together, some 300 bytes each
INTRODUCTION_NS = 3600 * SECOND  # of a grant; it is renewed at half of that
INTRODUCTION_NAMES_MAX = 64  # patterns of one, and services; what is beyond goes through the node
INTRODUCTIONS_MAX = 16_384  # of all programs at a node
INTRODUCTION_BYTES = 512  # about what one costs in memory, and ...
INTRODUCTION_NAME_BYTES = 128  # ... each of its names
MEETINGS_MAX = 1024  # of one program that need no second look; then all are looked at again

# --- discovery -----------------------------------------------------------------------------
FOUND_PEERS_MAX = 1024  # peers known and not linked, some 2 KiB each; then the oldest sight goes
PEER_ADDRESSES_MAX = 16  # in one record: a few interfaces, two families, a path
PEER_ADDRESS_BYTES_MAX = 128  # the longest path of a Unix socket has 107
ADDRESS_CLAIMS_MAX = 32  # that say who is there: a few lives of one program; each look costs them
LISTED_ADDRESSES_MAX = 64  # of a peers list; whoever has more nodes lists a few, gossip tells
GOSSIP_PEERS_MAX = 256  # that one linked peer tells of: all that a program is linked with
GOSSIP_NS = 1 * SECOND  # changes are told together: a newcomer is told all, and dials, at once
GOSSIPERS_PER_PEER_MAX = 4  # so many peers may tell of the same one, more add nothing
DIALS_LISTED_MAX = 16  # in flight, of the peers list
DIALS_KNOWN_MAX = 16  # to where a peer was before
DIALS_MDNS_MAX = 32
DIALS_GOSSIP_MAX = 16  # of all who gossip ...
DIALS_GOSSIPER_MAX = 4  # ... and of one
DIAL_BURST_COUNT = 64  # new dials by what mDNS said, at once ...
DIAL_INTERVAL_NS = 31 * MS  # ... and then one in so long: forged records make us knock, not flood
DIAL_GOSSIPER_BURST_COUNT = 16  # the same by what one linked peer said
DIAL_GOSSIPER_INTERVAL_NS = 125 * MS
DIAL_TIMEOUT_NS = 3 * SECOND  # as a link that is silent
DIAL_BACKOFF_NS_MIN = 50 * MS
DIAL_BACKOFF_NS_MAX = 30 * SECOND
DIAL_BACKOFF_LISTED_NS_MAX = 2 * SECOND  # who is listed is meant to be there
LINK_STEADY_NS = 10 * SECOND  # a link that lived so long was a good one: no back-off behind it
MDNS_EVENTS_MAX = 1024  # heard and not yet looked at
MDNS_EVENTS_PER_TURN_COUNT = (
    32  # 1 ms; then records of the program, links and pings have their turn
)
MDNS_RESOLVES_MAX = 16  # records asked for at a time because they came in parts
MDNS_RESOLVE_NS = 2 * SECOND
MDNS_SHARE = 5  # mDNS gets one part in so many of a core, however much is sent
MDNS_THROTTLE_NS = 100 * MS
MDNS_NAME_BYTES_MAX = 128  # records travel in one packet of 1,460 bytes, with others
INTERFACES_INTERVAL_NS = 10 * SECOND  # Wi-Fi comes and goes
SIGHT_LOST_NS = 60 * SECOND  # a goodbye may be forged: so long it is dialled as before

# --- a site of nodes -----------------------------------------------------------------------
SITE_NODES_MAX = 64  # nodes that one is linked with; each pair has two links
PULSE_NS = 250 * MS  # how often a node asks another one whether it is alive, with few of them ...
PULSES_PER_SECOND_MAX = 100  # ... and how many it asks in all, with many
SITE_BACKOFF_NS_MAX = 2 * SECOND  # between dials to a node: all are linked soon after a heal
DATA_DIAL_NS = 100 * MS  # until a lost data link is dialled again, while the node answers pulses
SITE_PATTERNS_MAX = 65_536  # patterns that one node may want of another one
SITE_PATTERNS_PER_FRAME = 1024  # more go into further frames
SAME_ORIGIN_NS = 1 * SECOND  # heard of so lately, an earlier run of a node is still there
REFUSALS_TOLD_MAX = 100  # nodes that were refused, as listings show them
PROBLEMS_MAX = 100  # that one node tells of itself: people read them
PLACES_MAX = 256  # logs that one read may be in: the nodes of a site, and disks they have lost
POSITION_CHARACTERS_MAX = 80 * PLACES_MAX  # of a position's text, with a place in each log
SITE_READINGS_MAX = 65_536  # logs that subscriptions of one node read at another one
SITE_READS_HELD_BYTES_MAX = 64 * MIB  # deliveries of other nodes that wait for clients' credit
DIRECT_READ_LINKS_MAX = 8  # links of a program to nodes whose logs it reads at them
DIRECT_READ_FRAMES = 8  # deliveries of one log in DIRECT_READ_SPAN_NS that are worth a link, ...
DIRECT_READ_BYTES = 64 * KIB  # ... or so many bytes
DIRECT_READ_SPAN_NS = 1 * SECOND
DIRECT_READ_SHARE = 8  # one log has this part of a subscription's window, all have half of it, ...
DIRECT_READ_WINDOW_BYTES = 512 * KIB  # ... if the window is not smaller than this
DIRECT_READ_DIAL_NS = 1 * SECOND  # a node has so long to answer; its log goes by ours meanwhile
DIRECT_READ_RETRY_NS_MIN = 1 * SECOND  # after a link failed; longer each time
DIRECT_READ_RETRY_NS_MAX = 60 * SECOND
DIRECT_READ_IDLE_NS = 10 * SECOND  # nothing came for so long: by our own node again
LINK_UNACKED_BYTES_MAX = SESSION_UNACKED_BYTES_MAX // 2  # sent over one link and not acknowledged;
LINK_UNACKED_FRAME_BYTES = 4 * KIB  # with so much for each frame: then deliveries wait
SIBLING_UNACKED_BYTES = SESSION_UNACKED_BYTES_MAX // 2  # of a node: requests and replies wait
OFFERS_GATHER_NS = 10 * MS  # services that begin or end one behind the other are told together
OFFERS_NS = 100 * MS  # load is told no more often ...
OFFERS_BYTES_PER_SECOND = 1 * MIB  # ... and no faster, to all nodes together
OFFER_BYTES = 48  # of one service in a frame, about
OFFERED_MAX = 16_384  # services of one node that others know of
OFFERED_MEMORY_BYTES = 1 * KIB  # about what one that a sibling serves takes
SITE_CREDIT_BYTES = 16 * MIB  # of transient records on their way from one node to another
MIRRORS_MAX = 128  # logs of which one node has copies: all of its site, and of as many lost disks
COPIES_MAX = 5  # nodes that have a stream
LINK_ENDPOINTS_MAX = 16  # addresses of another site: more than it has gateways
COPY_CREDIT_BYTES = 4 * MIB  # of one log on their way to a copy: a full disk commit is half of it
LINK_PATTERNS_MAX = 64  # of topics that one link brings, and as many that it leaves out
LINK_CREDIT_BYTES = 96 * MIB  # of all logs on their way over one link: 340 MB/s at 200 ms and 80
LINK_FIRST_BYTES = 128 * KIB  # until it is synced there; before a line is measured
LINK_LEAST_BYTES = 16 * KIB  # the smallest window of a line
LINK_SLACK_NS = 250 * MS  # on its way beyond what the distance asks for: who overtakes waits so
LINK_NEW_NS = 600 * MS  # ... and on a new link so much more, until that brings no more
LINK_PROBE_NS_MAX = 2 * SECOND  # the smallest round trip is looked for so long at most
LINK_RATE_NS = 500 * MS  # a line's rate is the greatest of twice that, at least ten round trips
LINK_ROUND_TRIP_NS = 10 * SECOND  # so old, a line's smallest round trip is measured anew
LINK_ROW_BYTES = 96  # of a batch in a frame, beside its bytes
SITES_MAX = 256  # other sites that a node tells of
TAKEN_RANGES_MAX = 20_000  # streams of one log that another site takes over
HANDED_BACK_MAX = 4096  # runs of records that go back to their site in one frame
FENCE_NS_MIN = 5 * SECOND  # of a site's fence_after: a link that says nothing is lost after 3 s
FENCE_NS_MAX = 24 * 3600 * SECOND
FENCE_MARGIN_NS = 10 * SECOND  # so much longer than a site's fence_after another one waits
SITE_TAKEOVER_WAIT_NS = 5 * SECOND  # ... and at most so long for others to say that they know
LINK_EVER_NS = 50 * 365 * DAY  # what is kept for ever is not older ...
LINK_EVER_UNTIL_NS = 25 * 365 * DAY  # ... a time before this one, unix ns, leaves nothing out
LINK_BURST_NS = 100 * MS  # of a link's bytes_per_second may come at once
LINK_BUDGET_BYTES_MIN = 1000  # per second: less would be a link that stands still
PACK_BYTES_MIN = 128  # of batches in one frame: fewer are not compressed
PACK_SKIPPED_MAX = 64  # frames that are not tried where none of them shrinks
LINK_FULL_SILENT_NS = 60 * SECOND  # a data link between sites may be full: dead after this, ...
LINK_FULL_RESEND_NS = 10 * SECOND  # ... and nothing is sent again before: 1 MiB at 1 Mbit/s
LINK_FULL_UNACKED_BYTES_MAX = 160 * MIB  # then its session ends: far above what may be on its way
LINK_PATH_MAX = 32  # sites by which a log comes, one behind the other
LINK_STREAMS_MAX = 1 << 16  # streams of a log that are named at once; of a log with more none are
LINK_PRIORITIES_MAX = 8  # patterns of topics that go first over a link: each is a strand of its own
LINK_SHARE_PART = 16  # of what may be on its way of a log, so much is for those who do not go first
STRANDS_MAX = 64  # of one log of another site; then a new wish waits until some have come together
STRAND_CLAIMS_MAX = 8  # that a topic of a strand is to match: wishes of one after the other
STRAND_HAD_MAX = 1024  # streams that are here in part, told to who sends; of others all comes again
LINKS_PAUSED_MAX = 1024  # of one site
PASSED_COMMITS_MAX = 1000  # of another log, without anything for us, until that is stored
LINK_STALE_NS = 2 * SECOND  # another site is turned to when one had no more of a log for so long
MIRRORED_SITES_MAX = 16  # so many other sites a receipt may wait for
MIRRORED_ROWS_MAX = 64  # what is known of who has one log: sites, times what they wished of it
VERIFY_RANGE_BYTES = 16 * MIB  # that two sites compare at a time
VERIFY_PART_BYTES = 1 * MIB  # with a sum for so much each ...
VERIFY_BATCHES_MAX = 256  # ... or so many batches
VERIFY_SUMS_MAX = 128  # in a frame
VERIFY_SUM_BYTES = 16
VERIFY_STEPS_MAX = 4  # that are under way at a node, and over a link
VERIFY_NS = 60 * SECOND  # for one of them
COPIES_TOLD_NS = 500 * MS  # how far copies go is told to the other nodes at most so often
COPY_AWAY_NS = 30 * SECOND  # a node that is away for so long no longer counts: another one copies
COPY_AGAIN_NS = 1 * SECOND  # a copy that met a full disk, or a log behind it, is tried again
JOURNAL_VALUE_BYTES_MAX = 512 * KIB  # what a commit changes of groups; more is several batches
JOURNAL_SUM_NS = 10 * SECOND  # a copy that lacks part of a journal gets its sum no more often
MENDS_MAX = 64  # damaged batches that are had again at a time; groups wait, others are told
MEND_NS = 3 * SECOND  # who is asked for one answers within this, or another one is asked
MEND_PATIENCE_NS = 10 * 60 * SECOND  # so long groups wait for a damaged batch whose copies are away
NOT_MENDED_MAX = 10_000  # damaged batches that no other node had: more are not counted
MENDED_BYTES_MAX = 8 * MIB  # of batches that were had again, kept in memory
TAKEOVER_SEEN_NS = 10 * SECOND  # a node seen so lately is taken over only if told that it is dead
TAKEOVER_BYTES = 256 * KIB  # of a copied log looked at before what was moved is synced
RETURN_WAIT_NS = 5 * SECOND  # a node that starts waits so long to hear whether it was taken over
OWN_LOG_WAIT_NS = 5 * SECOND  # ... and how far the copies of its log go
COPY_WAITING_MAX = 262_144  # batches whose second confirmation waits for copies; then: synced only

# --- what a site agrees on -----------------------------------------------------------------
LOG_NUMBER_MAX = (
    1 << 61
) - 1  # of commits, and of records of a stream; sums of two are numbers too
LOG_SLOT_MAX = (1 << 31) - 1  # of batches of a commit
STAMP_MS_MAX = 1 << 43  # the year 2248: a later time is no time
STAMP_AHEAD_NS = 600 * SECOND  # of one's own clock; what is set later than that does not move it
SETTINGS_BYTES_MAX = 4 * KIB  # of a group, as JSON: some 20 names and numbers
TOMBSTONE_NS = 30 * DAY  # a node that was away for longer brings back what was deleted meanwhile
TOMBSTONES_MAX = 100_000  # some 500 bytes each; then the oldest are forgotten
TOMBSTONE_SWEEP_NS = 3600 * SECOND
DIRECTORY_FRAME_BYTES = 32 * KIB  # of rows; at 10 Mbit/s a ping waits 26 ms behind one
DIRECTORY_FRAME_BYTES_MAX = 64 * KIB  # taken in one frame
DIRECTORY_FRAMES_IN_FLIGHT = 2  # to one sibling: one travels while it takes the other
DIRECTORY_NEWS_MAX = 4096  # rows to be told to one sibling by their keys; then by their buckets
DIRECTORY_CHECK_NS = 1 * SECOND  # so long changes gather before siblings compare what they have
DIRECTORY_TELLER_NS = 3 * SECOND  # who was asked for rows tells some in that time, or is given up
DIRECTORY_ROW_MEMORY_BYTES = 1 * KIB  # about what a row costs in memory
CLOCKS_TOLD_MAX = 64  # nodes with clocks ahead that ``status`` names

# --- moving from node to node ----------------------------------------------------------------
MOVE_GREETING_NS = 400 * MS  # an address has so long to answer where there are others to try
MOVE_SPREAD_NS = 100 * MS  # over so long the programs of a dead node come to others
DOUBT_NS = 5 * SECOND  # before a program was last heard, for its confirmations to have reached it
STILL_NS = 1 * SECOND  # a pulse that is so late says that the node stood still
DOUBTS_STILL_MAX = 64  # times that a node stood still
DOUBTS_MAX = 4096  # programs whose links were lost, some 200 bytes each
AVOIDED_NS = 10 * SECOND  # a node that drains, or is full, is not dialled for so long
KNOWN_TOLD_NS = 1 * SECOND  # programs are told of other nodes no more often
MOVE_QUIET_NS = 300 * MS  # to leave a node that drains, what is new waits so long for the rest ...
DRAIN_LINGER_NS = 250 * MS  # so long a drained node gives back what other nodes still send it
MOVE_AGAIN_NS = 1 * SECOND  # ... and again after this
DEDUP_PRODUCERS_MAX = 65_536  # (topic, producer, node) a subscription with dedup knows ...
DEDUP_RUNS_MAX = 64  # ... with so many runs of sequences each, of every log they came from

# --- memory --------------------------------------------------------------------------------
MEMORY_UNACCOUNTED_MAX = 160 * MIB  # more than the node knows to hold: the listener is bound again
HEAP_KEPT_BYTES = 8 * MIB  # freed and not given back: what DIRECT_IN_FLIGHT_BYTES comes and goes in
MEMORY_CHECK_NS = 250 * MS  # an attacker on a fast network sends some 250 MiB in that time
MEMORY_SETTLE_NS = 2 * SECOND  # then what was freed is back with the system
TOPIC_MEMORY_BYTES = 4 * KIB  # about what a topic costs in memory, with its index entries
COMMIT_MEMORY_BYTES = 256  # about what a commit costs in memory besides its batches
BATCH_MEMORY_BYTES = 384  # about what a stored batch costs besides its bytes
PRODUCER_MEMORY_BYTES = 1 * KIB  # about what a (producer, topic) pair costs
OPEN_FILES = 65_536  # asked for where the system sets no bound

# --- store ---------------------------------------------------------------------------------
COMMIT_BYTES_MAX = 8 * MIB
COMMIT_INLINE_BYTES_MAX = 16 * KIB  # larger payloads go to the segment's values file
SEGMENT_BYTES_MAX = 256 * MIB
SEGMENT_COMMITS_MAX = 65_536  # bounds the replay at start
SEGMENT_BATCHES_MAX = 262_144  # bounds the active segment's index in memory (about 40 B each)
RETENTION_INTERVAL_NS = 1 * SECOND
DISK_RESERVE_SHARE = 50  # one part in so many of the disk is kept free of records, within:
DISK_RESERVE_BYTES_MIN = 16 * MIB
DISK_RESERVE_BYTES_MAX = 1024 * MIB
TIGHT_SHARE = 4  # with less than one part in so many of the reserve left, groups hand out nothing
REASON_CHARACTERS_LOW = 100  # of a nack or reject, while the disk has no room above its reserve
BALLAST_BYTES = 16 * MIB  # given up when the reserve is gone: for acks, deletions, retention
STARTER_BYTES = 1 * MIB  # given up when not even a start has room

assert FRAME_PAYLOAD_BYTES_MAX >= BATCH_BYTES_MAX > VALUE_BYTES_MAX > BATCH_BYTES_TARGET
assert STALLED_NS <= ROUTE_SILENT_NS  # or what is to go by the node would wait for who is silent
assert LINK_SILENT_NS >= 3 * PING_INTERVAL_NS
assert PRODUCER_BUFFER_BYTES_MAX > PRODUCER_IN_FLIGHT_BYTES_MAX > BATCH_BYTES_MAX
assert GOSSIP_PEERS_MAX >= DIRECT_PEERS_MAX
assert DIRECT_PEERS_REMEMBERED_MAX > DIRECT_PEERS_MAX + 1  # those that are linked, and itself
assert DIRECT_BATCH_BYTES + LARGE_VALUE_BYTES + 64 * KIB < BATCH_BYTES_MAX
assert DIRECT_QUEUE_BYTES_MAX > DIRECT_IN_FLIGHT_BYTES + BATCH_BYTES_MAX
assert CREDIT_BYTES_DEFAULT > 2 * BATCH_BYTES_MAX
assert max(REQUESTS_UNACKED_BYTES, REPLIES_UNACKED_BYTES) < SESSION_UNACKED_BYTES_MAX // 2
assert LINK_CREDIT_BYTES + 16 * BATCH_BYTES_MAX < LINK_FULL_UNACKED_BYTES_MAX
assert SERVICES_UNACKED_FRAMES < SESSION_UNACKED_FRAMES_MAX // 2
assert REPLY_BACKLOG_BYTES_MAX < REPLY_BACKLOGS_BYTES_MAX

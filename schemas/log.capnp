@0xe4b86a1c73d2f905;
# What a commit and a snapshot look like on disk. A commit is one row of a segment: this message,
# and the batches' bytes beside it (in the same row when small, in the segment's values file when
# large).
#
# Commit and Batch are written and read at fixed places by codec_log.py, for speed: a new field
# goes at the end, and the layout there is changed with it (a test compares both).

struct Commit {
  lsn        @0 :UInt64;             # 1, 2, 3 ... without gaps over all segments
  appendTime @1 :Int64;              # unix ns, never less than the commit before
  batches    @2 :List(Batch);        # in slot order
  topics     @3 :List(Topic);        # created, changed or deleted here; they come before the batches
  rules      @4 :List(Rule);
  trims      @5 :List(Trim);
  inline     @6 :Bool;               # the batches' bytes follow in the row, not in the values file
  directory  @7 :Data;               # packed: see core/directory_rows.py; absent with batches only
  moved      @8 :List(Moved);        # of batches that were sent to another node before
  mirrors    @9 :Data;               # packed: see core/mirror_log.py; absent where nothing is copied
}

struct Moved {
  slot   @0 :UInt32;
  origin @1 :Data;                   # that node's, 16 bytes
  first  @2 :UInt64;                 # the sequence it had there
}

struct Batch {
  stream       @0 :UInt32;           # alias of the stream, good within this data directory
  baseOffset   @1 :UInt64;
  count        @2 :UInt32;
  position     @3 :UInt64;           # of its bytes: in the values file, or in the row's payload
  length       @4 :UInt32;
  checksum     @5 :UInt32;           # CRC-32 of its bytes
  producerHead @6 :UInt64;           # the producer's 16 bytes as two little-endian numbers
  producerTail @7 :UInt64;
  first        @8 :UInt64;           # the producer's sequence of its first record
}

struct Topic {
  stream         @0 :UInt32;         # 0 for a transient topic
  topicId        @1 :Data;
  name           @2 :Text;
  durable        @3 :Bool;
  retention      @4 :Int64;          # ns, 0: for ever
  retentionBytes @5 :Int64;          # 0: no bound
  deleted        @6 :Bool;
  copies         @7 :UInt8;          # nodes that are to have its stream, 0: as the node says
  origin         @8 :Data;           # copied from this log; empty: the node's own
  source         @9 :UInt32;         # its stream there
  replicated     @10 :Bool;          # receipts wait for the copies, where a publisher does not say
  copiedFrom     @11 :UInt64;        # copied from the offset before this one on; 0: nobody noted it
  strand         @12 :UInt16;        # of a log of another site: the strand that it came by
}

struct Rule {
  pattern        @0 :Text;
  durable        @1 :Bool;
  retention      @2 :Int64;
  retentionBytes @3 :Int64;
  removed        @4 :Bool;
  copies         @5 :UInt8;
  replicated     @6 :Bool;
}

struct Trim {
  stream      @0 :UInt32;
  firstOffset @1 :UInt64;
}

struct Snapshot {
  format     @0 :UInt32;             # 1; 2 where it holds copies, which earlier versions take for
                                     # the node's own streams
  origin     @1 :Data;
  nextLsn    @2 :UInt64;             # the first commit of this segment
  appendTime @3 :Int64;
  nextStream @4 :UInt32;
  streams    @5 :List(StreamState);
  rules      @6 :List(Rule);
  producers  @7 :Data;               # packed, little-endian, least recently active first; each:
                                     # producer 16 bytes, stream u32, ranges u32, last u64, lastTime
                                     # i64, then per range three u64: first, baseOffset, count
  segments   @8 :List(Segment);      # the older ones, oldest first
  groups     @9 :Data;               # packed: see core/journal.py
  mirrors    @11 :Data;              # packed: see core/mirror_log.py; their streams are in `streams`
  takeovers  @12 :Data;              # packed, as in a commit's `mirrors`
  directory  @10 :Data;              # packed: see core/directory_rows.py
}

struct StreamState {
  topic       @0 :Topic;
  nextOffset  @1 :UInt64;
  firstOffset @2 :UInt64;
}

struct Segment {
  number    @0 :UInt64;
  firstLsn  @1 :UInt64;
  lastLsn   @2 :UInt64;
  firstTime @3 :Int64;
  lastTime  @4 :Int64;
  portions  @5 :Data;                # packed, little-endian, by stream; each: stream u32, firstOffset
                                     # u64, nextOffset u64, bytes u64, lastTime i64
}

@0xd7c1f7e2a9b04d11;
# The batch: many records encoded together, once, by their producer. Stored, copied and delivered
# as these very bytes. Offsets and sequence numbers travel beside it, never in it.

struct Batch {
  values  @0 :List(Data);   # one a record
  keys    @1 :List(Data);   # absent, or one a record; an empty key is no key
  headers @2 :List(Data);   # absent, or one a record: a Headers message, or empty
  times   @3 :Data;         # absent, or one little-endian int64 a record: unix time in ns
  time    @4 :Int64;        # unix time in ns of every record when `times` is absent
}

struct Job {
  # A batch of a queue whose jobs share what follows. It reads as a Batch, too.
  values   @0 :List(Data);
  keys     @1 :List(Data);
  headers  @2 :List(Data);
  times    @3 :Data;
  time     @4 :Int64;
  due      @5 :Int64;       # unix time in ms before which no job is handed out; 0: at once
  expires  @6 :Int64;       # unix time in ms after which none is handed out; 0: never
  priority @7 :UInt8;       # 0 to 9, the highest first
  dedup    @8 :Data;        # 16 bytes: what makes a job of the same queue a repeat of this one
}

struct Headers {
  pairs @0 :List(Data);     # name, value, name, value ...; names are UTF-8
}

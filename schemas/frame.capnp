@0x9a3d5f60c1e84b27;
# What travels between two ends of a link. A frame is one Frame message in the first part of a
# ZeroMQ message and, for publish and deliver, the batches' bytes back to back in the second.
# Numbers and names are never reused for something else.

struct Frame {
  session  @0 :UInt64;      # chosen by the end that said hello
  sequence @1 :UInt64;      # 0: not part of the reliable order (hello, welcome, refuse, ping ...)
  ack      @2 :UInt64;      # every sequence up to this one has arrived
  union {
    nothing     @3  :Void;  # carries only the ack
    hello       @4  :Hello;
    welcome     @5  :Welcome;
    refuse      @6  :Refuse;
    ping        @7  :Void;
    bye         @8  :Void;
    publish     @9  :Publish;
    confirm     @10 :Confirm;
    subscribe   @11 :Subscribe;
    subscribed  @12 :Subscribed;
    unsubscribe @13 :Unsubscribe;
    credit      @14 :Credit;
    deliver     @15 :Deliver;
    command     @16 :Command;
    result      @17 :Result;
    gap         @18 :Void;  # "I have only up to `ack`, send again from there"
    window      @19 :Window;
    consume     @20 :Consume;
    consumed    @21 :Consumed;
    handOut     @22 :HandOut;
    settle      @23 :Settle;
    settled     @24 :Settled;
    revoke      @25 :Settle;  # consumer and rows only
    leave       @26 :Leave;
    transact    @27 :Transact;
    transacted  @28 :Transacted;
    serve       @29 :Serve;
    served      @30 :Served;
    unserve     @31 :Unserve;
    request     @32 :Request;
    reply       @33 :Reply;
    cancel      @34 :Cancel;
    grant       @35 :Grant;
    interests   @36 :Interests;
    noted       @37 :Noted;
    routes      @38 :Routes;
    wanted      @39 :Wanted;
    introduce   @40 :Introduce;
    known       @41 :Known;
    siteInterests @42 :SiteInterests;
    pulse       @43 :Pulse;
    streams     @44 :Streams;
    offers      @45 :Offers;
    workReady   @46 :WorkReady;
    lend        @47 :Lend;
    lent        @48 :Lent;
    owner       @49 :Owner;
    directory   @50 :Directory;
    drained     @51 :Drained;
    askCopy     @52 :AskCopy;
    fetch       @53 :Fetch;
    fetched     @54 :Fetched;
    copied      @55 :Copied;
    copies      @56 :Copies;
    logOffers   @57 :LogOffers;
    mirrored    @58 :Mirrored;
    siteWords   @59 :SiteWords;
    handBack    @60 :HandBack;
    handedBack  @61 :HandedBack;
    checkRange  @62 :CheckRange;
    rangeChecked @63 :RangeChecked;
  }
}

struct Hello {
  major    @0 :UInt16;
  minor    @1 :UInt16;
  mesh     @2 :Text;
  instance @3 :Data;        # 16 random bytes: this run of the program
  producer @4 :Data;        # 16 bytes: random, or from the producer's name
  name     @5 :Text;        # for people
  software @6 :Text;
  direct   @7 :Bool;        # a program that wants a link between programs, not a node
  addresses @8 :List(Text); # where others may dial it; of a node: its listener for nodes
  node      @9 :NodeFacts;  # only of a node, whose instance is its origin
  reads     @10 :Bool;      # a program that is at another node, and reads here what is published here
  admin     @11 :Bool;      # only commands will come: a node that drains lets it in
}

struct Welcome {
  major         @0 :UInt16;
  minor         @1 :UInt16;
  origin        @2 :Data;   # 16 bytes: identity of the node's log
  name          @3 :Text;
  software      @4 :Text;
  inFlightBytes @5 :UInt64; # what a producer may have unconfirmed
  direct        @6 :Bool;   # a program: the origin is its instance
  addresses     @7 :List(Text);
  node          @8 :NodeFacts;  # only from a node to a node
  site          @9 :Text;   # the node's site, or empty: it is alone
}

struct NodeFacts {
  incarnation @0 :UInt64;   # greater with each start of the node, never 0
  site        @1 :Text;
  clients     @2 :List(Text); # where programs may dial it
  isData      @3 :Bool;     # a link for what clients of the two have to do with each other; else
                            # one for what must not wait: who is there, pulses, what is agreed
  linkTo      @4 :Text;     # of a link between sites: the one that is looked for; else empty
}

struct Refuse {
  code    @0 :Text;
  message @1 :Text;
  peers   @2 :List(KnownPeer); # where to go instead, from a node that drains
}

struct Publish {
  batches @0 :List(PublishBatch);
  moved   @1 :List(Moved);  # of those that were sent to another node before
}

struct Moved {              # a batch that another node may have stored
  row    @0 :UInt32;        # its index in the frame
  origin @1 :Data;          # the first node it was sent to, 16 bytes
  first  @2 :UInt64;        # the sequence it had there
}

struct PublishBatch {
  topic    @0 :Text;
  first    @1 :UInt64;      # sequence of its first record, per producer and topic, from 1
  after    @2 :UInt64;      # the sequence it follows; first - 1 unless some were skipped
  count    @3 :UInt32;      # records
  length   @4 :UInt32;      # bytes of the batch in the payload
  checksum @5 :UInt32;      # CRC-32 of those bytes
  resent   @6 :Bool;        # sent before, perhaps to an earlier life of the node
  job      @7 :Bool;        # of a queue: to be refused where there is none
  numbered @8 :Bool;        # of a transient topic: `first` counts without gaps all that this run of
                            # the program sends of it, whatever the route
  routed   @9 :Bool;        # those that Routes names have it directly: not for them
  replicated @10 :Bool;     # confirm it a second time, once its copies are synced
  ofRun    @11 :Bool;       # of a producer with a name: `first` is a number of this run of it, and
                            # no other run's
  mirrors  @12 :UInt8;      # confirm it a second time, once so many other sites have synced it
}

struct Confirm {
  confirmations @0 :List(Confirmation);
}

struct Confirmation {
  topic      @0 :Text;
  first      @1 :UInt64;
  count      @2 :UInt32;
  code       @3 :Text;      # empty: done; else an error's code
  message    @4 :Text;
  baseOffset @5 :UInt64;
  appendTime @6 :Int64;     # unix time in ns
  topicId    @7 :Data;
  durability @8 :UInt8;     # 0 sent, 1 synced, 2 replicated, 2 + n: mirrored at n other sites
  last       @9 :UInt64;    # highest sequence the node has of this producer and topic
  duplicate  @10 :Bool;     # it was there already; hasOffset tells whether its offset is known
  hasOffset  @11 :Bool;
  unwanted   @12 :Bool;     # nobody here wants the topic; Wanted tells when that changes
  more       @13 :Bool;     # a second one follows, with a higher durability
}

struct Window {
  inFlightBytes @0 :UInt64; # what a producer may have unconfirmed from now on
  pause         @1 :UInt64; # ns: send nothing for so long
}

struct Subscribe {
  subscription @0 :UInt32;
  pattern      @1 :Text;
  start        @2 :UInt8;   # 0 new, 1 earliest, 2 time, 3 offset, 4 position
  value        @3 :Int64;   # unix ns or offset; of a position: unix ns from when on logs without a
                            # place are read
  origin       @4 :Data;    # of the position
  lsn          @5 :UInt64;
  slot         @6 :UInt32;
  creditBytes   @7 :UInt64;
  creditRecords @8 :UInt64;
  only          @9 :UInt8;  # 0 all topics, 1 transient ones, 2 durable ones
  places        @10 :List(Place); # of a position: in the logs of other nodes
  dedup         @11 :Bool;  # say of durable batches who published them
  copyOf        @12 :Data;  # read what is copied of this log, by its places; empty: the node's own
  alone         @13 :Bool;  # of the node's own log, and nothing of the logs of others
  ownSite       @14 :Bool;  # of logs of the node's site, and nothing of what is mirrored there
}

struct Place {              # the next batch to read in a node's log
  origin @0 :Data;          # 16 bytes
  lsn    @1 :UInt64;
  slot   @2 :UInt32;
  direct @3 :Bool;          # the program reads this log at that node itself
}

struct Subscribed {
  subscription @0 :UInt32;
  code         @1 :Text;
  message      @2 :Text;
  origin       @3 :Data;
  lsn          @4 :UInt64;  # where reading begins; 0: that shows with the first batch
  slot         @5 :UInt32;
  topics       @6 :UInt32;  # how many topics match now
  time         @7 :Int64;   # unix ns of the answer, by the node's clock
}

struct Unsubscribe {
  subscription @0 :UInt32;
}

struct Credit {
  subscription @0 :UInt32;
  bytes        @1 :UInt64;  # more of it
  records      @2 :UInt64;
}

struct Deliver {
  subscription @0 :UInt32;
  batches      @1 :List(DeliverBatch);
  missed       @2 :UInt64;  # transient records dropped for this subscriber before these
  published    @3 :List(Published); # of durable ones, where Subscribe.dedup asks for it
}

struct Published {          # who published a batch
  row      @0 :UInt32;      # its index in the frame
  producer @1 :Data;        # 16 bytes
  first    @2 :UInt64;      # sequence of its first record
  moved    @3 :Data;        # where it was sent before, or empty: origin, 16 bytes, and the sequence
                            # it had there, 8 bytes, little-endian
}

struct DeliverBatch {
  topic      @0 :Text;
  baseOffset @1 :UInt64;
  count      @2 :UInt32;
  length     @3 :UInt32;
  checksum   @4 :UInt32;
  appendTime @5 :Int64;
  lsn        @6 :UInt64;    # 0: transient, it has no offset
  slot       @7 :UInt32;
  damaged    @8 :Bool;      # the stored bytes failed their checksum: no bytes follow
  missing    @9 :Bool;      # numbered ones that were dropped on the way: no bytes follow
  source     @10 :Data;     # by a node: the run of a program that `baseOffset` is a number of, or
                            # empty. Without records: all that it had sent by this route is told
  origin     @11 :Data;     # durable, of another node's log: its origin; empty: of the node's own
  site       @12 :Text;     # transient, from another site: which one; empty: of the node's own
}

struct Command {
  id        @0 :UInt64;
  verb      @1 :Text;
  arguments @2 :Data;       # JSON object
}

struct Result {
  id      @0 :UInt64;
  code    @1 :Text;         # empty: done
  message @2 :Text;
  body    @3 :Data;         # JSON object
}

struct Consume {
  consumer        @0 :UInt32;
  group           @1 :Text;
  pattern         @2 :Text;
  create          @3 :Data;   # JSON object: the group's settings, should it be missing
  prefetchRecords @4 :UInt32;
  prefetchBytes   @5 :UInt64;
  ackTimeout      @6 :UInt64; # ns
  holdings        @7 :List(Holding);
  origin          @8 :Data;   # join only at this owner, and claim what is held of it; empty: at the
                              # node that is asked, which joins at the others
  instance        @9 :Data;   # from a node on behalf of a program: that program's run, ...
  name            @10 :Text;  # ... its name, ...
  member          @11 :UInt32;  # ... and its own number for the consumer
  epoch           @12 :UInt32;  # counts the program's sessions with nodes: an older one's word comes late
}

struct Holding {
  number  @0 :UInt64;         # of a hand-out in an earlier session
  topic   @1 :Text;
  offsets @2 :List(UInt64);   # of its records that are not settled
  attempt @3 :UInt16;
  origin  @4 :Data;           # whose hand-out it is; empty: the node's that is asked
  size    @5 :UInt64;         # about how many bytes these records have
}

struct Consumed {
  consumer @0 :UInt32;
  code     @1 :Text;
  message  @2 :Text;
  order    @3 :UInt8;         # 0 any, 1 key
  lost     @4 :List(UInt64);  # hand-outs that are no longer the member's
  origin   @5 :Data;          # of which owner; empty: the node's own
  shared   @6 :Bool;          # other nodes' hand-outs come too, and what is held of them is claimed
                              # when Owner tells that they are there
}

struct HandOut {
  consumer @0 :UInt32;
  rows     @1 :List(HandOutRow);
  origin   @2 :Data;          # whose records they are; empty: the node's own
}

struct HandOutRow {
  topic          @0 :Text;
  number         @1 :UInt64;
  first          @2 :UInt64;  # offset of the first record
  count          @3 :UInt32;  # records handed out
  skip           @4 :UInt32;  # records in the batch before the first
  held           @5 :UInt32;  # records in the bytes: count, or all of the batch
  length         @6 :UInt32;
  checksum       @7 :UInt32;
  appendTime     @8 :Int64;
  lsn            @9 :UInt64;
  slot           @10 :UInt32;
  attempt        @11 :UInt16;
  maybeDuplicate @12 :Bool;
  offsets        @13 :Data;   # packed little-endian u64; empty: first, first + 1 ...
  topicKey       @14 :UInt64; # the first 8 bytes of the topic's id, big-endian
}

struct Settle {
  consumer @0 :UInt32;
  number   @1 :UInt64;        # counts the member's frames in this session, from 1
  rows     @2 :List(SettleRow);
  origin   @3 :Data;          # whose hand-outs they are of, each owner's frames are counted apart;
                              # empty: the node's own
}

struct SettleRow {
  number @0 :UInt64;
  first  @1 :UInt32;          # index in the hand-out
  count  @2 :UInt32;
  kind   @3 :UInt8;           # 0 ack, 1 nack, 2 reject, 3 extend, 4 return
  delay  @4 :Int64;           # ns; of a nack -1: the group's back-off
  reason @5 :Text;
}

struct Settled {
  consumer @0 :UInt32;
  number   @1 :UInt64;        # the member's frames up to this one are stored
  stale    @2 :List(SettleRow);
  origin   @3 :Data;          # of which owner; empty: the node's own
}

struct Leave {
  consumer @0 :UInt32;
  lost     @1 :Bool;          # its session was lost: it may come back for what it holds
}

struct Transact {
  id      @0 :UInt64;         # counts the program's transactions, from 1
  acks    @1 :List(TransactAck);
  batches @2 :List(PublishBatch);
  origin  @3 :Data;           # of what it acks; empty: the node's own
  instance @4 :Data;          # from a node on behalf of a program: that program's run, ...
  tag      @5 :UInt64;        # ... and what the answer is known by
}

struct TransactAck {
  consumer @0 :UInt32;
  number   @1 :UInt64;
  first    @2 :UInt32;
  count    @3 :UInt32;
}

struct Transacted {
  id      @0 :UInt64;
  code    @1 :Text;
  message @2 :Text;
  offsets @3 :List(UInt64);   # base offset of each batch
  topicKeys @4 :List(UInt64); # of each batch's topic, as in HandOutRow
  origin  @5 :Data;           # in whose log the batches are; empty: the node's own
  tag     @6 :UInt64;         # as in the question
}

struct Serve {
  registration @0 :UInt32;    # the client's number for it
  service      @1 :Text;
  concurrency  @2 :UInt32;    # requests it may have at a time
}

struct Served {
  registration @0 :UInt32;
  code         @1 :Text;      # empty: requests may come
  message      @2 :Text;
  ended        @3 :Bool;      # the answer to unserve: nothing more comes
}

struct Unserve {
  registration @0 :UInt32;
}

struct Request {
  rows @0 :List(RequestRow);
}

struct RequestRow {
  id           @0 :UInt64;    # the sender's number for it, answered by replies
  registration @1 :UInt32;    # towards an instance: which of its registrations
  service      @2 :Text;      # towards a node
  remaining    @3 :UInt64;    # ns until its deadline
  kind         @4 :UInt8;     # 0 one reply, 1 one of each instance, 2 a stream of replies
  idempotent   @5 :Bool;      # may be handed to another instance where one was lost
  window       @6 :UInt64;    # bytes of a stream that may come before the next grant
  headers      @7 :Data;
  length       @8 :UInt32;    # bytes of the value in the payload
}

struct Reply {
  rows @0 :List(ReplyRow);
}

struct ReplyRow {
  id       @0 :UInt64;        # as in the request
  hasValue @1 :Bool;
  end      @2 :Bool;          # nothing more comes
  code     @3 :Text;          # empty: done; else an error's code
  detail   @4 :Text;          # of a service's own error: its code
  message  @5 :Text;
  instance @6 :Text;          # who answered, for people
  length   @7 :UInt32;
}

struct Cancel {
  ids @0 :List(UInt64);       # requests nobody waits for any more
}

struct Grant {
  id    @0 :UInt64;           # of a request for a stream
  bytes @1 :UInt64;           # more of it
}

struct Interests {
  version @0 :UInt64;       # counts the program's changes
  whole   @1 :Bool;         # these are all there are; else what has changed
  add     @2 :List(Interest);
  remove  @3 :List(UInt32); # numbers
  node    @4 :Data;         # origin of the node that the program is at, or empty
}

struct Interest {
  number      @0 :UInt32;   # the program's own, of subscription, pull or registration
  kind        @1 :UInt8;    # 0 subscription, 1 pull, 2 service
  name        @2 :Text;     # pattern, or the service's name
  concurrency @3 :UInt32;   # of a service: requests it may have at a time
}

struct Noted {
  version @0 :UInt64;       # of the Interests this answers
  whole   @1 :Bool;
  more    @2 :Bool;         # another Noted follows for the same
  rows    @3 :List(NotedRow);
}

struct NotedRow {
  topic @0 :Text;
  next  @1 :UInt64;         # number of the first record that is sent from here on
  unsure @2 :UInt64;        # those from here on the node may keep, it was asked; 0: none
}

struct Routes {
  add    @0 :List(Route);   # who has what is `routed` directly from here on
  remove @1 :List(Route);   # who has it by the node again
}

struct Route {
  instance      @0 :Data;         # the run of a program
  subscriptions @1 :List(UInt32); # its own numbers of them; none: all there are
}

struct Wanted {
  topics @0 :List(Text);    # said to be unwanted; not any more
}

struct Introduce {
  instance  @0 :Data;       # the run of a program
  name      @1 :Text;
  addresses @2 :List(Text); # where it may be dialled
  patterns  @3 :List(Text); # what records may pass between the two directly
  services  @4 :List(Text); # what requests may
  lifetime  @5 :UInt64;     # ns; then what was allowed is over, unless it is said again
}

struct Known {
  peers @0 :List(KnownPeer);  # all that the teller is linked with now
  more  @1 :Bool;             # these have come to those that it told of before
}

struct KnownPeer {
  instance  @0 :Data;       # a program's run, or a node's origin
  isNode    @1 :Bool;
  name      @2 :Text;
  addresses @3 :List(Text);
}

struct SiteInterests {      # what transient topics a node's clients want; to a node of another site:
                            # those of all our site's nodes, as far as the link brings them
  whole  @0 :Bool;          # these are all there are; else what has changed
  add    @1 :List(Text);    # patterns
  remove @2 :List(Text);
  more   @3 :Bool;          # the rest of the same whole follows
  noted  @4 :UInt64;        # one more than the number of the last frame of the other end whose
                            # patterns all publishers here know of; 0: this says nothing of that
}

struct Pulse {
  stamp    @0 :UInt64;      # ns, of who asked
  isAnswer @1 :Bool;        # to the pulse with that stamp
}

struct Streams {            # to a client: the logs of other nodes that a subscription reads. By a client:
                            # those that it is to read directly from now on, or no longer
  subscription @0 :UInt32;
  rows         @1 :List(StreamsRow);  # those of which something is new
}

struct StreamsRow {
  origin @0 :Data;
  name   @1 :Text;          # of the node
  away   @2 :Bool;          # nothing of it comes until it is back
  lsn    @3 :UInt64;        # where reading begins; 0: that shows with the first batch
  slot   @4 :UInt32;
  direct @5 :Bool;          # by a client: send nothing more of it, and take this back of the credit:
  bytes  @6 :UInt64;
  records @7 :UInt64;       # by a node: that is done, nothing of it comes behind this
  gone   @8 :Bool;          # it does not come back: it was forgotten
}

struct AskCopy {            # of the sender's log
  level @0 :UInt8;          # of its topics those with more copies than this; 0: no copy is needed
}

struct Fetch {              # one log, or what is copied of it, in its order
  number @0 :UInt32;        # of the asking node; a greater one ends those before
  origin @1 :Data;
  lsn    @2 :UInt64;        # from this place on
  slot   @3 :UInt32;
  bytes  @4 :UInt64;        # how much may be on its way
  level  @5 :UInt8;         # as in AskCopy; 255: none, it ends
  topicId @6 :Data;         # only the batch of this stream that holds `offset`
  offset @7 :UInt64;
  strands @8 :List(Strand); # of a log of another site: these, each from its place on
  since  @9 :Int64;         # nothing that was stored before, unix ns; 0: all
  had    @10 :List(Had);    # but of these streams what lies at an offset or behind it, and only that
  packs  @11 :Bool;         # batches may come as a block
  wholeLsn  @12 :UInt64;    # between sites: from this place on up to those of the strands all is
  wholeSlot @13 :UInt32;    # there; 0: from the beginning, or, with `since`, it is not known
}

struct Had {
  stream @0 :UInt32;
  offset @1 :UInt64;
}

struct Strand {             # part of a log of another site that is pulled by itself
  number @0 :UInt16;
  rank   @1 :UInt8;         # the lower the sooner it goes over a thin link
  lsn    @2 :UInt64;        # it goes up to before this place
  slot   @3 :UInt32;
  claims @4 :List(Claim);   # topics that match each of them and are of no strand before it
}

struct StrandPlace {
  number @0 :UInt16;
  lsn    @1 :UInt64;
  slot   @2 :UInt32;
}

struct Claim {              # topics that match one pattern
  topics  @0 :List(Text);   # of these
  exclude @1 :List(Text);   # and none of these
}

struct Fetched {
  number  @0 :UInt32;
  code    @1 :Text;         # empty: here it is; else nothing comes
  message @2 :Text;
  topics  @3 :List(CopiedTopic);  # those that are new to the asking node, or have changed
  batches @4 :List(CopiedBatch);
  lsn     @5 :UInt64;       # the place behind them
  slot    @6 :UInt32;
  size    @7 :UInt32;       # not 0: the payload is a zstd block of the batches, so many bytes
  strand  @8 :UInt16;       # of a log of another site
  places  @9 :List(StrandPlace);  # up to where all was sent of strands
  flight  @10 :UInt32;       # between sites: bytes on their way over the link, for people
  streams @11 :List(UInt32);  # with namesAll: numbers of all streams that there are of the log
  namesAll @12 :Bool;
}

struct CopiedTopic {
  stream      @0 :UInt32;   # its number in its own log
  topicId     @1 :Data;
  name        @2 :Text;
  firstOffset @3 :UInt64;   # what is before this is gone at its own node
  deleted     @4 :Bool;
  end         @5 :UInt64;   # between sites: there are records up to before this offset; 0: not said
  begins      @6 :UInt64;   # one more than the offset from which on the sender has what comes next;
                            # 0: it has all from firstOffset on
}

struct CopiedBatch {
  stream     @0 :UInt32;
  count      @1 :UInt32;
  baseOffset @2 :UInt64;
  length     @3 :UInt32;
  checksum   @4 :UInt32;
  appendTime @5 :Int64;
  lsn        @6 :UInt64;
  slot       @7 :UInt32;
  damaged    @8 :Bool;      # no bytes follow
  producer   @9 :Data;
  first      @10 :UInt64;
  moved      @11 :Data;     # where it was sent before: 16 bytes of that node, its sequence there
}

struct Copied {             # the copy is synced up to before this place
  origin @0 :Data;
  lsn    @1 :UInt64;
  slot   @2 :UInt32;
  bytes  @3 :UInt64;        # so much more may be on its way
  lacks  @4 :Bool;          # part of the journal was gone before it could be copied: send its sum
  problem @5 :Text;         # why the copy stands still
  holes  @6 :Bool;          # part of it came damaged: it is no reason to drop another copy
  places @7 :List(StrandPlace);  # of a log of another site: of each strand
}

struct Copies {             # all that the sender has copies of
  rows @0 :List(CopiesRow);
}

struct CopiesRow {
  origin @0 :Data;
  name   @1 :Text;
  lsn    @2 :UInt64;        # 0: the sender has no copy of it
  slot   @3 :UInt32;
  epoch  @4 :UInt64;        # of the takeover of its groups, 0: there was none
  taker  @5 :Data;
  taken  @6 :UInt64;        # what its groups had not done before this place is the taker's
  takenSlot @7 :UInt32;
  whole     @8 :Bool;       # the copy has all topics, whatever copies they were to have
  forgotten @9 :UInt64;     # epoch at which it was given up, 0: it was not
  furthest  @10 :UInt64;    # of the log of who is told: how far any copy goes, as the sender heard
  furthestSlot @11 :UInt32;
  lifted    @12 :Bool;      # it was given up, and came back
  strands   @13 :List(Strand);  # these of a log of another site, as in LogOffer
  topics    @14 :List(Text);
  exclude   @15 :List(Text);
  since     @16 :Int64;
}

struct LogOffers {          # between sites: logs that the sender has, or mirrors
  rows @0 :List(LogOffer);
}

struct LogOffer {
  origin @0 :Data;
  name   @1 :Text;          # of its node
  site   @2 :Text;          # and the site of that
  lsn    @3 :UInt64;        # there is something before this place
  slot   @4 :UInt32;
  topics @5 :List(Text);    # of a mirror: patterns of what is mirrored, but for those that match
  exclude @6 :List(Text);   # one of these; of the own log both are empty
  path   @7 :List(Text);    # of a mirror: sites by which it comes; empty: by none now
  strands @8 :List(Strand); # of a mirror: how far each goes
  since  @9 :Int64;         # nothing is there that was stored before, unix ns; 0: all is
  partial @10 :Bool;        # of a mirror: it may have less than the log's own node keeps
  clock  @11 :Int64;        # what time it was at its node when that told it, unix ns; 0: unknown
}

struct Mirrored {           # towards the node of a log: which sites have synced it
  origin @0 :Data;
  rows   @1 :List(MirroredRow);  # all that the sender knows of
}

struct MirroredRow {
  site   @0 :Text;
  claims @1 :List(Claim);   # topics that match each of these,
  sinceLsn  @2 :UInt64;     # from this place on
  sinceSlot @3 :UInt32;
  lsn    @4 :UInt64;        # up to before this one
  slot   @5 :UInt32;
}

struct SiteWords {          # of sites, between nodes of one and of two
  fence  @0 :UInt64;        # ms without any link after which its site hands out nothing; 0: never
  seen   @1 :List(SeenRow);
  taken  @2 :List(SiteTaken);
  inside @3 :List(CopiesRow);  # takeovers inside the sender's site
}

struct SeenRow {
  site   @0 :Text;
  linked @1 :Bool;
  ms     @2 :UInt64;        # else: so long ago
}

struct SiteTaken {          # a log whose groups another site finishes
  origin @0 :Data;
  name   @1 :Text;          # of its node
  site   @2 :Text;          # and the site of that
  epoch  @3 :UInt64;        # with `by` and `taker`: the greatest counts
  by     @4 :Text;          # the site that finishes it
  taker  @5 :Data;          # its node
  groups @6 :List(UInt32);  # as numbered in that log
  ranges @7 :List(TakenRange);
  over   @8 :Bool;          # nothing of it is left at the taker
  back   @9 :Bool;          # its own site has asked for what was left
}

struct TakenRange {
  stream @0 :UInt32;        # as numbered in that log
  first  @1 :UInt64;
  end    @2 :UInt64;
}

struct HandBack {           # by a taker to the node whose log it is: these records are its own again
  epoch @0 :UInt64;
  part  @1 :UInt64;
  runs  @2 :List(HandedRun);
}

struct HandedBack {         # that is stored
  epoch @0 :UInt64;
  part  @1 :UInt64;
  gone  @2 :List(HandedRun);  # of these: what is there no more
}

struct HandedRun {
  group  @0 :Text;
  stream @1 :UInt32;
  first  @2 :UInt64;
  count  @3 :UInt32;
  due    @4 :UInt64;        # unix ms; 0: at once
  attempts @5 :UInt32;      # that failed
  priority @6 :UInt8;       # of jobs
}

struct CheckRange {         # between sites: read part of a stream from the disk, and say what is there
  number  @0 :UInt32;
  origin  @1 :Data;         # of the log
  topicId @2 :Data;
  first   @3 :UInt64;       # from this offset on,
  ends    @4 :List(UInt64); # a sum up to before each of these; none: only where there are records
  batches @5 :Bool;         # each batch instead
}

struct RangeChecked {
  number  @0 :UInt32;
  code    @1 :Text;         # empty: here it is
  message @2 :Text;
  first   @3 :UInt64;       # records are kept from here on
  end     @4 :UInt64;       # up to before here
  sums    @5 :List(Data);
  batches @6 :List(CheckedBatch);
}

struct CheckedBatch {
  first   @0 :UInt64;
  count   @1 :UInt32;
  damaged @2 :Bool;         # its bytes do not match its own checksum
  sum     @3 :Data;         # of its bytes
}

struct Offers {             # what services a node's clients serve, and how busy they are
  version @0 :UInt64;       # counts these frames to one node, from 1
  whole   @1 :Bool;         # nothing else is served; else what has changed
  asks    @2 :Bool;         # tell all that you serve
  rows    @3 :List(Offer);
  patterns @4 :List(Text);  # with asks, to a node of another site: of which services; 64 at most
}

struct Offer {
  number    @0 :UInt32;     # the node's own for the service
  instances @1 :UInt32;     # how many serve it; 0: none any more
  places    @2 :UInt32;     # requests they take at a time
  free      @3 :UInt32;     # of those, not taken
  waiting   @4 :UInt32;     # requests at the node that wait for one
  service   @5 :Text;       # empty: as told before under this number
}

struct WorkReady {          # to a node that has members in these groups
  rows @0 :List(WorkReadyRow);  # those that have changed
}

struct WorkReadyRow {
  group   @0 :Text;
  records @1 :UInt64;       # about how many wait that no member has room for; 0: none does
}

struct Lend {               # by the node that a member is at: what it may have of this owner
  consumer @0 :UInt32;
  number   @1 :UInt64;      # counts these frames for this consumer, from 1
  records  @2 :UInt32;      # in flight at most, from now on, with what is in flight already
  bytes    @3 :UInt64;
  alone    @4 :Bool;        # it has nothing of others: one larger record may come
  answer   @5 :Bool;        # it is less than before: say when that is so
}

struct Lent {               # no hand-out that goes by an earlier Lend comes behind this
  consumer @0 :UInt32;
  number   @1 :UInt64;
}

struct Owner {              # by a node to a program
  consumer @0 :UInt32;
  origin   @1 :Data;        # another node that records may come from
  name     @2 :Text;
  here     @3 :Bool;        # it can be reached: join there and claim what is held of it
  fenced   @4 :Text;        # of the node itself: why it hands out nothing; empty: it does again
}

struct Directory {          # what a site's nodes agree on
  kind @0 :UInt8;           # 0 a hash of everything, 1 the hashes of all buckets, 2 the same as an
                            # answer, 3 rows, 4 rows were taken
  data @1 :Data;            # hashes: 8 bytes each, of 256 buckets; rows: see core/directory_rows.py
}

struct Drained {            # to a client: the node is to end, go to another one
  peers @0 :List(KnownPeer); # those that there are
}

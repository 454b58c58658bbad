"""The state machines: an event and the time go in, effects come out. No I/O, clock or thread."""

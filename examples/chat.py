"""A chat with no server: programs that find each other, and nothing between them.

    python chat.py ann
    python chat.py bob

They find each other by mDNS; where that does not work, by address:

    python chat.py ann --listen tcp://127.0.0.1:7001
    python chat.py bob --peer tcp://127.0.0.1:7001 --listen tcp://127.0.0.1:7002
    python chat.py eve --peer tcp://127.0.0.1:7001 --peer tcp://127.0.0.1:7002

What is typed goes to all others; the end of the input, or Ctrl-C, ends it. Without arguments three
of them talk in one process.
"""

from __future__ import annotations

import argparse
import sys
import threading

import meshmq

ROOM = "examples.chat"


def listen(room: meshmq.Subscription, name: str) -> None:
    """Show what others say, until the room is closed."""
    for message in room:
        who = message.topic.rsplit(".", 1)[1]
        if who != name:
            print(f"{who}: {message.value.decode()}", flush=True)


def chat(name: str, peers: list[str], address: str | None) -> None:
    with meshmq.connect(peers=peers or None, listen=address, name=name) as mesh:
        print(f"{name} is at {mesh.addresses[0]}", flush=True)
        room = mesh.subscribe(f"{ROOM}.*")
        listener = threading.Thread(target=listen, args=(room, name))
        listener.start()
        try:
            for line in sys.stdin:
                mesh.publish(f"{ROOM}.{name}", line.rstrip("\n").encode())
        finally:
            room.close()
            listener.join()


def talk() -> None:
    """Ann, Bob and Eve."""
    with (
        meshmq.connect(listen="tcp://127.0.0.1:*", name="ann") as ann,
        meshmq.connect(peers=ann.addresses, name="bob") as bob,
        meshmq.connect(peers=[*ann.addresses, *bob.addresses], name="eve") as eve,
    ):
        names = {"ann": ann, "bob": bob, "eve": eve}
        rooms = {name: mesh.subscribe(f"{ROOM}.*") for name, mesh in names.items()}
        for name, mesh in names.items():
            mesh.publish(f"{ROOM}.{name}", f"hello from {name}".encode()).wait(5)
        for name, room in rooms.items():
            heard: list[str] = []
            while len(heard) < len(names):
                heard += [message.value.decode() for message in room.fetch(timeout=5)]
            print(f"{name} heard: {', '.join(sorted(heard))}; missed {room.missed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="?")
    parser.add_argument("--peer", action="append", default=[])
    parser.add_argument("--listen")
    given = parser.parse_args()
    if given.name is None:
        talk()
    else:
        chat(given.name, given.peer, given.listen)


if __name__ == "__main__":
    try:
        main()
    except meshmq.MeshError as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit(130)

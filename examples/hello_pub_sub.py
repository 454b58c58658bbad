"""The first message: subscribe, publish, receive. Needs a node: `meshmq node`."""

from __future__ import annotations

import sys

import meshmq


def main() -> None:
    with meshmq.connect() as mesh, mesh.subscribe("hello.>") as sub:
        receipt = mesh.publish("hello.world", b"hi there", key=b"k", headers={"trace": "1"})
        receipt.wait(timeout=5)
        print(f"published at offset {receipt.offset}, {receipt.durability}")
        for message in sub.fetch(max_records=1, timeout=5):
            print(f"received {message.topic}: {message.value.decode()}, headers {message.headers}")


if __name__ == "__main__":
    try:
        main()
    except meshmq.MeshError as error:
        sys.exit(f"{error}")

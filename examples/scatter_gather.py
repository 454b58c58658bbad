"""Ask everybody, take what comes in time: three shops name their price, one of them too late.

Here all are in one script, each with its connection. It needs no node, and uses one that is there.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack

import meshmq

SERVICE = "examples.price"
PRICES = {"north": 17, "south": 15, "west": 9}
SLOW = "west"
DEADLINE = 2.0


class Shop:
    """An instance of the service, in a program of its own as it were."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mesh = meshmq.connect(name=name)
        self.mesh.serve(SERVICE, self.price)

    def price(self, request: meshmq.Request) -> bytes:
        if self.name == SLOW:
            while not request.cancelled:  # so long as somebody waits for the answer
                time.sleep(0.05)
        return b"%d" % PRICES[self.name]


def main() -> None:
    with ExitStack() as shops, meshmq.connect() as mesh:
        for name in PRICES:
            shops.enter_context(Shop(name).mesh)
        replies = mesh.request_many(SERVICE, b"a kettle", timeout=DEADLINE)
        offers = {r.instance: int(r.value) for r in replies if r.error is None}
        for name, price in sorted(offers.items()):
            print(f"{name}: {price}")
        best = min(offers, key=lambda name: offers[name])
        print(f"the best in time: {best}, {offers[best]}")
        print("too late:", *sorted(PRICES.keys() - offers.keys()))


if __name__ == "__main__":
    try:
        main()
    except meshmq.MeshError as error:
        sys.exit(f"{error}")

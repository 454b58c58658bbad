"""Effectively once: orders in, invoices out, and each order has exactly one.

The invoice and the ack of its order are one transaction: a program that dies before the end of the
`with` has done neither, and the order comes again. Needs a node: `meshmq node`.
"""

from __future__ import annotations

import sys

import meshmq

ORDERS = "examples.orders"
INVOICES = "examples.invoices"
COUNT = 10


class Crash(Exception):
    """Stands for a program that dies."""


def invoice(mesh: meshmq.Mesh, job: meshmq.Job, crash: bool) -> None:
    """Consume one, produce one."""
    with mesh.transaction() as tx:
        tx.publish(INVOICES, b"invoice for " + job.value, key=job.key)
        tx.ack(job)
        if crash:
            raise Crash


def main() -> None:
    with meshmq.connect() as mesh:
        receipts = mesh.publish_many(ORDERS, [b"order %d" % n for n in range(COUNT)])
        receipts.wait(timeout=10)
        first = receipts[0].offset
        with mesh.subscribe(INVOICES) as invoices:
            done, crashes = 0, 0
            group = f"examples-billing-{first}"  # a new one each time, so that it can be run again
            while done < COUNT:
                with mesh.consume(ORDERS, group, start=first) as orders:
                    try:
                        for job in orders:
                            invoice(mesh, job, crash=crashes < 3 and done == 2 * crashes + 1)
                            done += 1
                            if done == COUNT:
                                break
                    except Crash:
                        crashes += 1
                        print("crashed in the middle of a transaction; begin again")
            found = invoices.fetch(max_records=100, timeout=5)
            while more := invoices.fetch(max_records=100, timeout=0.5):
                found += more
        mesh.admin.groups.delete(group)
        print(f"{COUNT} orders, {crashes} crashes, {len(found)} invoices")
        print("each order has one:", "yes" if len({m.value for m in found}) == COUNT else "no")


if __name__ == "__main__":
    try:
        main()
    except meshmq.MeshError as error:
        sys.exit(f"{error}")

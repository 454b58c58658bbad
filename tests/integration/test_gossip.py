"""Programs that list one of them, in processes of their own, find the others."""

from __future__ import annotations

import subprocess
import sys
import time

import meshmq

PROGRAM = """
import sys
import meshmq

name, *peers = sys.argv[1:]
with meshmq.connect(listen="tcp://127.0.0.1:*", peers=peers, name=name) as mesh:
    mesh.serve(name, lambda request: request.value.upper())
    print(mesh.addresses[0], flush=True)
    sys.stdin.read()
"""


def start(*arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return process, process.stdout.readline().strip()


def linked(mesh):
    return sorted(row["name"] for row in mesh.peers())


def test_two_that_list_the_same_one_go_on_without_it():
    processes = []
    try:
        b, address = start("b")
        processes.append(b)
        processes += [start(name, address)[0] for name in ("c", "d")]
        with meshmq.connect(peers=[address], name="a") as a:
            begin = time.monotonic()
            while linked(a) != ["b", "c", "d"]:
                assert time.monotonic() - begin < 10, linked(a)
                time.sleep(0.005)
            b.kill()
            b.wait()
            assert a.request("c", b"hi", timeout=5).value == b"HI"
            assert a.request("d", b"hi", timeout=5).value == b"HI"
    finally:
        for process in processes:
            process.kill()
            process.communicate()

"""A service with errors of its own, and a program that asks it.

Here both are in one script, each with its connection. Several programs that serve the same name
share the requests. It needs no node, and uses one that is there.
"""

from __future__ import annotations

import operator
import sys

import meshmq

SERVICE = "examples.calculator"
OPERATORS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


def calculate(request: meshmq.Request) -> bytes:
    """``7 / 2`` is ``3.5``. What cannot be done is an answer, too: a code that programs know, and
    a text for people."""
    try:
        left, sign, right = request.value.decode().split()
        function = OPERATORS[sign]
        result = function(float(left), float(right))
    except ZeroDivisionError:
        raise meshmq.ServiceError("nothing can be divided by 0", "division-by-zero") from None
    except (ValueError, KeyError):
        raise meshmq.ServiceError("ask like this: 7 / 2", "not-understood") from None
    return f"{result:g}".encode()


def ask(mesh: meshmq.Mesh, question: str) -> str:
    """The answer, or why there is none; ``idempotent``: doing it twice does no harm."""
    try:
        reply = mesh.request(SERVICE, question.encode(), timeout=5, idempotent=True)
    except meshmq.ServiceError as error:
        if error.code == "division-by-zero":
            return "infinite, or so"
        return f"{error} ({error.code})"
    return reply.value.decode()


def main() -> None:
    with meshmq.connect(name="calculator") as server, meshmq.connect() as mesh:
        server.serve(SERVICE, calculate, concurrency=4)
        for question in ("12 + 30", "7 / 2", "1 / 0", "two and two"):
            print(f"{question}: {ask(mesh, question)}")


if __name__ == "__main__":
    try:
        main()
    except meshmq.MeshError as error:
        sys.exit(f"{error}")

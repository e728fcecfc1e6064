"""An agent that behaves until it attacks; a program a Link can start as its Python.

OFA_EDGE_TEST_ATTACK is `verb` or `verb:n`: n good results come first. What the verbs do is written at their functions.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from device_agents import wire

verb, _, number = os.environ["OFA_EDGE_TEST_ATTACK"].partition(":")
good = int(number or 0)
ESCAPES = "\x1b]0;owned\x07\x1b[2J\u202eevil\u2066"
FIGURES = wire.Figures(20, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0)
FACTS = wire.Facts(
    "Wild Board", "soc", "aarch64", "Linux 6", "3.11.2", 4, (0, 1, 2, 3), "performance", 1 << 30, False,
    {"onnxruntime": "1.31.1"}, "0001", "boot", wire.AGENT_VERSION,
)  # fmt: skip


def put(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def send(value: dict[str, Any]) -> None:
    """Unlike wire's own writers this one sends anything: NaN, escapes, what has no end."""
    import json

    put(json.dumps(value).encode() + b"\n")


def measured(job: wire.MeasureJob, **changes: Any) -> dict[str, Any]:
    beside = FIGURES if job.anchor else None
    result = wire.to_wire(wire.Measured(job.key, FIGURES, beside, beside, 1, 0.1, 1.0, 0))
    return {"measured": {**result, **changes}}


def figures(**changes: float) -> dict[str, Any]:
    return {**wire.to_wire(FIGURES), **changes}


def endless_output(ident: int, job: wire.MeasureJob) -> None:
    for _ in itertools.count():
        put(b"All work and no play\n" * 1000)


def endless_line(ident: int, job: wire.MeasureJob) -> None:
    for _ in itertools.count():
        put(b"y" * 65536)


def endless_rows(ident: int, job: wire.MeasureJob) -> None:
    for _ in itertools.count():
        send({"id": ident, "row": measured(job)})


def garbage(ident: int, job: wire.MeasureJob) -> None:
    put(bytes(range(256)).replace(b"\n", b"") + b"\n")


def half_a_line(ident: int, job: wire.MeasureJob) -> None:
    put(b'{"id": ')
    os._exit(0)


def not_a_number(ident: int, job: wire.MeasureJob) -> None:
    send({"id": ident, "row": measured(job, figures=figures(median=float("nan")))})


def too_large(ident: int, job: wire.MeasureJob) -> None:
    line = wire.dumps({"id": ident, "row": measured(job, figures=figures(p90=7.25))})
    put(line.replace("7.25", "1e999").encode() + b"\n")


def many_digits(ident: int, job: wire.MeasureJob) -> None:
    line = wire.dumps({"id": ident, "row": measured(job, batch=4711)})
    put(line.replace("4711", "1" * 500_000).encode() + b"\n")


def negative(ident: int, job: wire.MeasureJob) -> None:
    send({"id": ident, "row": measured(job, figures=figures(min=-1.0))})


def deep(ident: int, job: wire.MeasureJob) -> None:
    put(b'{"id":%d,"row":' % ident + b"[" * 100_000 + b"\n")


def other_request(ident: int, job: wire.MeasureJob) -> None:
    send({"id": ident + 4711, "row": measured(job)})


def unknown_key(ident: int, job: wire.MeasureJob) -> None:
    send({"id": ident, "row": measured(replace(job, key="never asked for"))})


def repeated_key(ident: int, job: wire.MeasureJob) -> None:
    send({"id": ident, "row": measured(job)})
    send({"id": ident, "row": measured(job)})


def repeated_field(ident: int, job: wire.MeasureJob) -> None:
    put(b'{"id":%d,"id":%d,"row":{}}\n' % (ident, ident))


def early_end(ident: int, job: wire.MeasureJob) -> None:
    send({"id": ident, "end": {"count": good}})


def escapes_in_key(ident: int, job: wire.MeasureJob) -> None:
    send({"id": ident, "row": measured(replace(job, key=ESCAPES))})


def escapes_in_reason(ident: int, job: wire.MeasureJob) -> None:
    send({"id": ident, "row": {"failed": {"key": job.key, "reason": ESCAPES}}})


def escapes_on_stderr(ident: int, job: wire.MeasureJob) -> None:
    sys.stderr.write(f"Traceback\nerror: {ESCAPES}\nok: all is well\n")
    sys.stderr.flush()
    os._exit(3)


def too_fast(ident: int, job: wire.MeasureJob) -> None:
    names = ("min", "p10", "median", "p90", "low", "high", "mean")
    send({"id": ident, "row": measured(job, figures=figures(**dict.fromkeys(names, 1e-6)))})


def exits(ident: int, job: wire.MeasureJob) -> None:
    os._exit(255)


def killed(ident: int, job: wire.MeasureJob) -> None:
    os.kill(os.getpid(), 9)


def silence(ident: int, job: wire.MeasureJob) -> None:
    time.sleep(300)


def drip(ident: int, job: wire.MeasureJob) -> None:
    for _ in range(3000):
        put(b" ")
        time.sleep(0.1)


def loud(ident: int, job: wire.MeasureJob) -> None:
    """Goes on, with five megabytes on stderr."""
    sys.stderr.write("x" * 5_000_000)
    send({"id": ident, "row": measured(job)})


def flood(ident: int, job: wire.MeasureJob) -> None:
    """Goes on, with a megabyte in each line and in between on stderr."""
    sys.stderr.write("x" * 900_000)
    put(wire.dumps({"id": ident, "row": measured(job)}).encode() + b" " * 900_000 + b"\n")


def answer(op: str, args: dict[str, Any], times: int) -> dict[str, Any]:
    if op == "facts":
        found = wire.to_wire(FACTS)
        if verb == "other-machine" and times:
            found["serial"] = "0002"
        if verb == "other-governor" and times:
            found["governor"] = "powersave"
        if verb == "escapes-in-facts":
            found["device_model"] = ESCAPES
        if verb == "huge-facts":
            found["device_model"] = "x" * 100_000
        return found
    arrived = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest(), "free_bytes": 1 << 40}
    return {"missing": {"missing": []}, "arrived": arrived, "unpack": {"count": 1}}.get(op, {})


def measure(ident: int, args: dict[str, Any]) -> None:
    global good
    attack: Callable[[int, wire.MeasureJob], None] | None = globals().get(verb.replace("-", "_"))
    jobs = [wire.MeasureJob.parse(job) for job in args["jobs"]]
    for job in jobs:
        if attack is None or good > 0:
            send({"id": ident, "row": measured(job)})
            good -= 1
        else:
            attack(ident, job)
    if verb == "no-end":
        os._exit(0)
    send({"id": ident, "end": {"count": len(jobs) + (verb == "wrong-count")}})


def main() -> None:
    nonce, root = sys.argv[-3], sys.argv[-2]
    put(f"\n{nonce} {wire.dumps({'ready': {'protocol': wire.PROTOCOL, 'root': root}})}\n".encode())
    asked: dict[str, int] = {}
    for line in sys.stdin.buffer:
        request = wire.parse_request(line)
        if request.op == "alive":
            open(os.path.join(root, "alive"), "w").close()
        elif request.op == "measure":
            measure(request.id, dict(request.args))
        else:
            send({"id": request.id, "ok": True, "result": answer(request.op, {}, asked.get(request.op, 0))})
        asked[request.op] = asked.get(request.op, 0) + 1


main()

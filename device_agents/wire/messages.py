"""The lines of the wire: requests, and the replies to them.

host  -> agent   {"id": 7, "op": "measure", "args": {...}}
agent -> host    {"id": 7, "ok": true, "result": {...}}
                 {"id": 7, "ok": false, "error": {"kind": "usage", "message": "..."}}
                 {"id": 7, "row": {...}}*   {"id": 7, "end": {"count": 2}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Union

from device_agents.errors import ERROR_KINDS
from device_agents.strict_json import Fields, WireError, clean, dumps, loads

PROTOCOL = 2
AGENT_VERSION = "0.1.0"

MAX_LINE = 1 << 20
"""Bytes in one line, its newline included; both sides stop reading there."""
MAX_ROWS = 1_000_000
MAX_JOBS = 1000
MAX_HASHES = 4000


@dataclass(frozen=True)
class Request:
    id: int
    op: str
    args: Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    id: int
    result: Mapping[str, Any]


@dataclass(frozen=True)
class Refusal:
    """`kind` is one of ERROR_KINDS."""

    id: int
    kind: str
    message: str


@dataclass(frozen=True)
class Row:
    id: int
    row: Mapping[str, Any]


@dataclass(frozen=True)
class End:
    """`count` is the number of rows sent before it in this stream."""

    id: int
    count: int


Reply = Union[Result, Refusal, Row, End]


def parse_request(line: bytes) -> Request:
    """Raises WireError."""
    f = Fields("request", loads(line))
    out = Request(f.whole("id"), f.text("op", r"[a-z][a-z0-9_.-]{0,39}"), f.object("args"))
    f.done()
    return out


def parse_reply(line: bytes) -> Reply:
    """Raises WireError."""
    f = Fields("reply", loads(line))
    ident = f.whole("id")
    out: Reply
    if f.has("row"):
        out = Row(ident, f.object("row"))
    elif f.has("end"):
        end = Fields("end", f.take("end"))
        out = End(ident, end.whole("count", 0, MAX_ROWS))
        end.done()
    elif f.flag("ok"):
        out = Result(ident, f.object("result"))
    else:
        error = Fields("error", f.take("error"))
        out = Refusal(ident, error.text("kind", "|".join(ERROR_KINDS)), error.text("message"))
        error.done()
    f.done()
    return out


def request_line(ident: int, op: str, args: Mapping[str, Any]) -> bytes:
    """Raises WireError when the line would be longer than a peer reads."""
    return _line({"id": ident, "op": op, "args": dict(args)})


def reply_line(reply: Reply) -> bytes:
    """Raises WireError when the line would be longer than a peer reads."""
    if isinstance(reply, Row):
        return _line({"id": reply.id, "row": reply.row})
    if isinstance(reply, End):
        return _line({"id": reply.id, "end": {"count": reply.count}})
    if isinstance(reply, Result):
        return _line({"id": reply.id, "ok": True, "result": reply.result})
    error = {"kind": reply.kind, "message": clean(reply.message)}
    return _line({"id": reply.id, "ok": False, "error": error})


def _line(value: Any) -> bytes:
    try:
        line = dumps(value).encode("ascii") + b"\n"
    except (TypeError, ValueError) as error:
        raise WireError(f"not a JSON value: {clean(str(error))}") from error
    if len(line) > MAX_LINE:
        raise WireError(f"a message of {len(line)} bytes, the limit is {MAX_LINE}")
    return line

"""The wire between host and agent: the one definition of it, imported by both sides.

In: lines of bytes from a peer that may be broken or hostile. Out: frozen dataclasses, or a WireError.
Rules kept: one JSON object a line, read by strict_json.py; every field has a type and a range (values.py), and a
missing or an unknown one is an error. Times are milliseconds, sizes bytes. messages.py says what the lines are, jobs.py
what is asked for, results.py what comes back, device.py what a device says of itself.
"""

from device_agents.errors import ERROR_KINDS, AgentError
from device_agents.strict_json import MAX_TEXT, Fields, WireError, canonical, clean, dumps, loads
from device_agents.wire.device import Facts, Health
from device_agents.wire.jobs import EnergyJob, MeasureJob
from device_agents.wire.messages import (
    AGENT_VERSION,
    MAX_HASHES,
    MAX_JOBS,
    MAX_LINE,
    PROTOCOL,
    End,
    Refusal,
    Reply,
    Request,
    Result,
    Row,
    parse_reply,
    parse_request,
    reply_line,
    request_line,
)
from device_agents.wire.results import (
    FLAGS,
    Checked,
    Energy,
    Failed,
    Figures,
    Measured,
    Noise,
    parse_row,
    result_row,
)
from device_agents.wire.values import to_wire

__all__ = [
    "AGENT_VERSION", "ERROR_KINDS", "FLAGS", "MAX_HASHES", "MAX_JOBS", "MAX_LINE", "MAX_TEXT", "PROTOCOL",
    "AgentError", "Checked", "End", "Energy", "EnergyJob", "Facts", "Failed", "Fields", "Figures", "Health",
    "MeasureJob", "Measured", "Noise", "Refusal", "Reply", "Request", "Result", "Row", "WireError", "canonical",
    "clean", "dumps", "loads", "parse_reply", "parse_request", "parse_row", "reply_line", "request_line", "result_row",
    "to_wire",
]  # fmt: skip

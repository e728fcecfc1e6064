"""Ask a device's Python what it is, before anything else is known to work there.

In: a Link. Out: an Interpreter. The question is one `python -c` line that Python 2.7 and later understand, so that an
old one is named instead of failing; its answer is the line after a nonce, as for the agent.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time

from device_agents import wire
from ofa_edge.device.link import Channel, Link, one_line
from ofa_edge.device.sites import LIBRARIES, Interpreter
from ofa_edge.errors import DeviceLost, OfaEdgeError, ProtocolError, UsageError
from ofa_edge.limits import LIMITS, Limits

# No single quotes and no exclamation mark, as in provision.BOOT.
PROBE = """
import sys
sys.path[:] = [p for p in sys.path if p]
import ctypes, json, os, platform
machine = platform.machine()
if sys.maxsize < 2 ** 32:
    machine = {"aarch64": "armv7l", "x86_64": "i686"}.get(machine, machine)
name = getattr(getattr(sys, "implementation", None), "name", "python").replace("cpython", "cp")
abi = "t" if "t" in getattr(sys, "abiflags", "") else ""
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
except (AttributeError, ValueError, OSError):
    libc = ""
lacks = []
for library in sys.argv[2:]:
    try:
        ctypes.CDLL(library)
    except OSError:
        lacks.append(library)
try:
    from importlib.metadata import version
    numpy = version("numpy")
except Exception:
    numpy = ""
tag = "%s%d%d%s-%s" % ((name,) + sys.version_info[:2] + (abi, machine))
found = {"version": list(sys.version_info[:3]), "tag": tag, "libc": libc, "lacks": lacks, "numpy": numpy}
sys.stdout.write("\\n" + sys.argv[1] + " " + json.dumps(found) + "\\n")
"""


def probe(link: Link, *, limits: Limits = LIMITS) -> Interpreter:
    """What the link's Python is.

    Raises:
        UsageError: there is none under that name.
        DeviceLost, ProtocolError: no answer, or none that is one.
    """
    nonce = secrets.token_hex(16)
    channel = link.start([link.python, "-c", PROBE, nonce, *LIBRARIES])
    status: int | None = None
    try:
        found = _answer(link, channel, nonce, limits)
    finally:
        status = channel.close(limits.close_seconds)
    if found is None:
        raise _no_python(link, status, channel.stderr_tail())
    try:
        f = wire.Fields("interpreter", found)
        version = f.wholes("version", 3, 0)
        lacks = [str(name) for name in f.items("lacks", len(LIBRARIES))]
        interpreter = Interpreter(
            command=link.python,
            version=(version[0], version[1], version[2]),
            tag=_plain(f.text("tag")),
            libc=wire.clean(str(f.take("libc"))),
            lacks=tuple(name for name in LIBRARIES if name in lacks),
            numpy=wire.clean(str(f.take("numpy"))),
        )
        f.done()
    except (wire.WireError, IndexError) as error:
        raise ProtocolError(f"{link.name} does not say what its Python is: {error}") from error
    return interpreter


def _plain(tag: str) -> str:
    if not re.fullmatch(r"[a-z]{1,20}[0-9]{1,4}t?-[A-Za-z0-9_]{1,30}", tag):
        raise wire.WireError("its tag is none")
    return tag


def _answer(link: Link, channel: Channel, nonce: str, limits: Limits) -> object | None:
    mark = nonce.encode("ascii") + b" "
    deadline = time.monotonic() + limits.handshake_seconds
    noise = 0
    while noise <= limits.noise_bytes:
        line = channel.readline(limits.noise_bytes + 1, max(0.0, deadline - time.monotonic()))
        if not line:
            return None
        if line.startswith(mark):
            with contextlib.suppress(wire.WireError):
                found: object = wire.loads(line[len(mark) :])
                return found
            raise ProtocolError(f"{link.name} does not say what its Python is")
        noise += len(line)
    raise ProtocolError(f"{link.name} printed more than {limits.noise_bytes} bytes before its Python answered")


def _no_python(link: Link, status: int | None, tail: str) -> OfaEdgeError:
    said = f": {one_line(tail)}" if tail else ""
    if status in (126, 127):
        return UsageError(
            f"{link.name} has no {link.python}",
            hint="install Python 3.9 or newer there (sudo apt install python3), or name the interpreter with --python",
        )
    why = "the link was cut or the process was killed" if status in (None, -1) else f"exit status {status}"
    return DeviceLost(
        f"{link.name}: its Python does not answer ({why}){said}", hint="try `ofa-edge doctor --host HOST`"
    )

"""What is shipped to a device: the agent, as one byte-reproducible zip application.

In: the device_agents package as installed. Out: bytes, the same on every machine for the same sources:
sorted names, fixed times and modes, nothing compressed (stored_zip.py). The device runs them only after their
sha256 matched.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from ofa_edge import stored_zip

_PACKAGE = "device_agents"
_MAIN = b"from device_agents.__main__ import main\n\nmain()\n"


@dataclass(frozen=True)
class Agent:
    """agent.pyz: `data` and its sha256."""

    data: bytes
    sha256: str


@functools.cache
def agent() -> Agent:
    """The agent of this installation."""
    data = stored_zip.pack(_sources(resources.files(_PACKAGE), _PACKAGE) | {"__main__.py": _MAIN})
    return Agent(data, hashlib.sha256(data).hexdigest())


def _sources(folder: Traversable, name: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for entry in folder.iterdir():
        path = f"{name}/{entry.name}"
        if entry.is_dir():
            found |= _sources(entry, path)
        elif entry.name.endswith(".py"):
            found[path] = entry.read_bytes()
    return found


BOOT = """
import sys
sys.path[:] = [p for p in sys.path if p]
import hashlib, json, os, runpy
nonce, root, sha256 = sys.argv[1:4]
def say(kind, **values):
    sys.stdout.write("\\n" + nonce + " " + json.dumps({kind: values}) + "\\n")
    sys.stdout.flush()
try:
    if sys.version_info < (3, 9):
        raise OSError("Python %d.%d is too old, the agent needs 3.9" % sys.version_info[:2])
    root = os.path.abspath(os.path.expanduser(root or os.environ.get("OFA_EDGE_HOME") or "~/.ofa-edge"))
    path = os.path.join(root, "agent", sha256 + ".pyz")
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    found = hashlib.sha256(open(path, "rb").read()).hexdigest() if os.path.exists(path) else ""
except Exception as error:
    say("refused", message=str(error))
    sys.exit(1)
if found == sha256:
    sys.argv = [path, "supervise", nonce, root]
    runpy.run_path(path, run_name="__main__")
else:
    say("absent", root=root)
"""
"""What `python -c` runs on the device: start the agent if its bytes are the ones the host means, else say so.

The current folder leaves sys.path first: a file called json.py there must not run. No single quotes and no
exclamation mark, so that every login shell passes it on unchanged.
"""


def boot_argv(python: str, nonce: str, root: str | None, sha256: str) -> list[str]:
    """The command line of an agent. `root` None: the device's own OFA_EDGE_HOME, else ~/.ofa-edge."""
    return [python, "-c", BOOT, nonce, root or "", sha256]

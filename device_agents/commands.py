"""What a person or a timer types on the device itself: `agent.pyz mode` and `agent.pyz policy`.

In: arguments. Out: the mode's name on stdout, talk on stderr, a status: 0 done, 1 failed, 2 usage. Rules kept: the
wire, runtimes and argparse stay unloaded, because a mode is to change in less than a tenth of a second.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from device_agents import modes, policy
from device_agents.disk import Disk
from device_agents.errors import AgentError
from device_agents.releases import App
from device_agents.strict_json import Fields, WireError, clean

USAGE = """\
usage: python3 agent.pyz mode --app APP [--root ROOT] [NAME]     say the mode, or change it to NAME
       python3 agent.pyz policy --app APP [--root ROOT] [--base FOLDER]   follow ROOT/APP/policy.json
ROOT is OFA_EDGE_HOME or ~/.ofa-edge where it is not given; FOLDER, in place of /, holds the sys/ that is read."""


def main(command: str, arguments: Sequence[str]) -> int:
    """Returns the exit status."""
    try:
        if command not in ("mode", "policy"):
            raise AgentError("usage", USAGE)
        options, rest = _parsed(arguments, ("--app", "--root", *(("--base",) if command == "policy" else ())))
        if "--app" not in options or len(rest) > (command == "mode"):
            raise AgentError("usage", USAGE)
        app = App.parse(_disk(options.get("--root")), Fields("arguments", {"app": options["--app"]}))
        print(_policy(app, options.get("--base", "/")) if command == "policy" else _mode(app, *rest))
        return 0
    except (AgentError, WireError, OSError) as error:
        usage = isinstance(error, WireError) or (isinstance(error, AgentError) and error.kind == "usage")
        print(USAGE if str(error) == USAGE else f"agent.pyz: {clean(str(error))}", file=sys.stderr)
        return 2 if usage else 1


def _mode(app: App, name: str | None = None) -> str:
    if name is None:
        return str(modes.current(app).mode)
    wanted = Fields("arguments", {"mode": name}).text("mode", modes.NAME)
    return str(modes.change(app, wanted, "set on the device")["mode"])


def _policy(app: App, base: str) -> str:
    mode, reason = policy.apply(app, base)
    print(f"{app.name}: {mode}, because {reason}", file=sys.stderr)
    return mode


def _disk(root: str | None) -> Disk:
    path = os.path.abspath(os.path.expanduser(root or os.environ.get("OFA_EDGE_HOME") or "~/.ofa-edge"))
    return Disk(path)


def _parsed(arguments: Sequence[str], known: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Options with a value, and the rest. Raises AgentError."""
    options: dict[str, str] = {}
    rest: list[str] = []
    left = list(arguments)
    while left:
        word, equals, value = left.pop(0).partition("=")
        if not word.startswith("-"):
            rest.append(word + equals + value)
        elif word not in known or word in options or not (equals or left):
            raise AgentError("usage", USAGE)
        else:
            options[word] = value if equals else left.pop(0)
    return options, rest

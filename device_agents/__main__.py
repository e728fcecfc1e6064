"""The entry of agent.pyz: `supervise NONCE ROOT` is the agent, `work ROOT [SITE]` one of its workers.

These two are started by the host's boot line (ofa_edge/device/provision.py) and by the supervisor. `mode` and `policy`
are for people and timers on the device (commands.py).
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Dispatch; ends the process without waiting for threads that read a pipe."""
    command, arguments = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    status = 0
    if command == "supervise":
        from device_agents import supervisor

        nonce, root = arguments
        entry = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        supervisor.main(nonce, root, [sys.executable, entry, "work", root])
    elif command == "work":
        from device_agents import site_path, worker

        root, *site = arguments
        site_path.use(root, *site)
        worker.main(root)
    else:
        from device_agents import commands

        status = commands.main(command, arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()

"""The entry of agent.pyz: `supervise NONCE ROOT` is the agent, `work ROOT [SITE]` one of its workers.

Started by the host's boot line (ofa_edge/device/provision.py) and by the supervisor; people do not call it.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Dispatch; ends the process without waiting for threads that read a pipe."""
    command, arguments = sys.argv[1], sys.argv[2:]
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
        sys.exit(f"unknown command {command!r}")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

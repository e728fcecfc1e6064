"""An upload that is cut again and again: what is sent twice, and whether the file is the right one in the end.

    python benchmarks/upload.py [--megabytes 6] [--places 10] [--json]

A file of random bytes is pushed to a real sshd on loopback, over a relay that cuts the connection after so many bytes;
each time a new session goes on. Carried is what the relay took towards the device in that attempt, there is what the
device then had, lost what of it was carried for nothing (SSH's own words counted). Counts, no clocks: another machine
gives other figures only where its sshd drops more or less of what it had received when a connection dies.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ofa_edge.device import ConnectOptions, open_device, transfer
from ofa_edge.errors import DeviceLost
from ofa_edge.limits import LIMITS
from tests import sshd
from tests.cable import Cable

GOLDEN = (5**0.5 - 1) / 2


def settled(file: Path) -> int:
    """A file's size once it has stopped growing: the server of a dead connection may still write."""
    size = -1
    while (now := file.stat().st_size) != size:
        size = now
        time.sleep(0.2)
    return size


def places(count: int) -> list[float]:
    """Shares of the whole, unevenly spread, so that they do not fall in step with anything."""
    return sorted(number * GOLDEN % 1 for number in range(1, count + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=6.0)
    parser.add_argument("--places", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    content = random.Random(0).randbytes(int(arguments.megabytes * 1e6))
    sha256 = hashlib.sha256(content).hexdigest()
    (pack,) = transfer.packs({sha256: content}, LIMITS.pack_bytes)
    rows = []
    with tempfile.TemporaryDirectory(prefix="ofa-edge-upload-") as folder:
        server = sshd.start(Path(folder))
        os.environ["OFA_EDGE_SSH_CONFIG"] = str(server.config)
        options = ConnectOptions(python=sys.executable)
        try:
            before = 0
            for cut, place in enumerate(places(arguments.places), 1):
                wanted = int(len(pack.data) * place)
                with Cable.to(server) as cable, open_device(cable.host, options=options) as session:
                    file = Path(session.root, pack.file)
                    opened = cable.sent
                    cable.cut_after(max(1, wanted - before))
                    with contextlib.suppress(DeviceLost):
                        session.push({sha256: content})
                    carried = cable.sent - opened
                there = settled(file)
                rows.append({"cut": cut, "from": before, "carried": carried, "there": there})
                before = there
            with open_device(server.host, options=options) as session:
                sent = session.push({sha256: content})
                found = hashlib.sha256(Path(session.root, "blobs", sha256).read_bytes()).hexdigest()
        finally:
            server.stop()
    twice = sum(row["carried"] for row in rows) + sent - len(pack.data)
    result = {
        "bytes": len(pack.data),
        "cuts": rows,
        "last": sent,
        "sent_twice": twice,
        "percent": 100 * twice / len(pack.data),
        "whole": found == sha256,
    }
    if arguments.json:
        print(json.dumps(result))
        return
    print(f"{'cut':>4} {'from':>10} {'carried':>10} {'there':>10} {'lost':>8}")
    for row in rows:
        lost = row["from"] + row["carried"] - row["there"]
        print(f"{row['cut']:4d} {row['from']:10d} {row['carried']:10d} {row['there']:10d} {lost:8d}")
    print(f"last {before:9d} {sent:10d} {len(pack.data):10d}")
    print(
        f"{len(pack.data)} bytes, {len(rows)} cuts: {twice} bytes were sent twice ({result['percent']:.1f} %); "
        f"the file is {'the right one' if result['whole'] else 'ANOTHER ONE'}"
    )


if __name__ == "__main__":
    main()

"""A host that is attacked by the agents it was given, and says by how much its greatest resident set grew."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from dataclasses import replace

from device_agents import wire
from ofa_edge.device import open_session
from ofa_edge.device.local import LocalLink
from ofa_edge.errors import DeviceLost
from ofa_edge.limits import LIMITS

_MAXRSS = 1 if sys.platform == "darwin" else 1024  # its unit in bytes

jobs = [wire.MeasureJob(str(i), "0" * 64) for i in range(150)]
base = 0
results = []
for python in sys.argv[1:]:
    with open_session(LocalLink(python=python, root="/x"), limits=replace(LIMITS, close_seconds=0.1)) as session:
        base = base or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        came = 0
        with contextlib.suppress(DeviceLost):
            for _ in session.measure(jobs, fresh=False):
                came += 1
        results.append(came)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) * _MAXRSS
print(json.dumps({"results": results, "grown_mb": grown / 1e6}))

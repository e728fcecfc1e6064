"""An agent that answers what a test wrote down, whatever it is asked; a program a Link can start as its Python.

The script is a JSON file named by OFA_EDGE_TEST_SCRIPT: `before` is printed (and `stderr` said) before the hello,
`hello` is printed after the nonce, and each request of op X is answered by the strings of `replies[X]`, "{id}" filled
in. A reply "<eof>" ends the agent, "<silence>" keeps it mute.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

script = json.loads(Path(os.environ["OFA_EDGE_TEST_SCRIPT"]).read_text())
nonce, root = sys.argv[-3], sys.argv[-2]
sys.stderr.write(script.get("stderr", ""))
sys.stdout.write(script.get("before", ""))
hello = script.get("hello", {"ready": {"protocol": 2, "root": root}})
sys.stdout.write(f"\n{nonce} {hello if isinstance(hello, str) else json.dumps(hello)}\n")
sys.stdout.flush()
for line in sys.stdin:
    request = json.loads(line)
    for reply in script["replies"].get(request["op"], ["<silence>"]):
        if reply == "<eof>":
            sys.exit(0)
        if reply == "<silence>":
            time.sleep(60)
        sys.stdout.write(reply.replace("{id}", str(request["id"])))
        sys.stdout.flush()

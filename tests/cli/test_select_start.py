"""What a plain `select` loads: a second is what it may take, and scipy's parts alone would take a fifth of that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ofa_edge import shipped

LATENCY = "latency/ofa-lite0-onnxruntime-t1-x86-64.jsonl"
ACCURACY = "accuracy/ofa-lite0-imagenette.jsonl"

CODE = """
import json, sys
from ofa_edge.cli.app import main
assert main(sys.argv[1:]) == 0
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def test_a_plain_select_loads_neither_scipy_nor_what_reaches_devices(tmp_path: Path) -> None:
    tables = ["--latency-table", shipped.tables() / LATENCY, "--accuracy-table", shipped.tables() / ACCURACY]
    line = ["select", "--budget", "8ms", *map(str, tables), "--accept-unknown", "--json", "--root", str(tmp_path)]
    run = subprocess.run([sys.executable, "-c", CODE, *line], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["proven_optimal"]
    loaded = set(json.loads(run.stderr.splitlines()[-1]))
    assert not {name for name in loaded if name.split(".")[0] in ("scipy", "paramiko", "onnx", "onnxruntime", "torch")}
    assert "ofa_edge.search.nonadditive" not in loaded

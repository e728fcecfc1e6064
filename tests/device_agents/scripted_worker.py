"""A worker process that does what a job's key says: run as a program by test_supervisor.py."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

FIGURES = {"n": 1, "min": 1.0, "p10": 1.0, "median": 1.0, "p90": 1.0, "low": 1.0, "high": 1.0, "mean": 1.0, "std": 0.0}
UNTOLD = ("steal", "pressure", "runnable", "temperature_c", "frequency_mhz", "throttled")
NOISE = {**dict.fromkeys(UNTOLD), "governor": "unknown"}


def measured(key: str) -> dict[str, object]:
    rest = {"anchor": None, "ratio": None, "batch": 1, "seconds": 0.1, "cpu_over_wall": 1.0, "flags": []}
    rest |= {"noise": NOISE, "peak_bytes": None}
    return {"measured": {"key": key, "figures": FIGURES, "involuntary_switches": os.getpid(), **rest}}


def energy(key: str) -> dict[str, object]:
    watts = {"idle_w": 1.0, "busy_w": 3.0, "mj": 2.0, "low": 2.0, "high": 2.0}
    return {"energy": {"key": key, "sensor": "scripted", "runs": 9, "windows": 6, **watts}}


def behave(key: str) -> None:
    if key.startswith("segfault"):
        os.kill(os.getpid(), signal.SIGSEGV)
    elif key.startswith("oom"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif key.startswith("hang"):
        time.sleep(600)
    elif key.startswith("exit"):
        sys.stderr.write("Killed by a library\x1b[31m\n")
        sys.exit(3)
    elif key.startswith("noise"):
        sys.stderr.write("x" * 5_000_000)
    elif key.startswith("garbage"):
        print("I am a library", flush=True)
    elif key.startswith("endless"):
        while True:
            sys.stdout.write("y" * 65536)


for line in sys.stdin:
    request = json.loads(line)
    if request["op"] == "probe":
        reply = {"ok": True, "result": {"runtimes": {"onnxruntime": "scripted"}, "sensors": ["scripted"]}}
    elif request["op"] == "check":
        checked = {"max_abs": 0.0, "rel": 0.0, "finite": True, "argmax_equal": True}
        reply = {"ok": True, "result": checked}
    else:
        job = request["args"]["job"]["key"]
        behave(job)
        reply = {"ok": True, "result": energy(job) if request["op"] == "energy" else measured(job)}
        if job.startswith("refuse"):
            reply = {"ok": False, "error": {"kind": "failed", "message": "no such operator"}}
        if job.startswith("no-runtime"):
            reply = {"ok": False, "error": {"kind": "no-runtime", "message": "it does not load"}}
    print(json.dumps({"id": request["id"], **reply}), flush=True)

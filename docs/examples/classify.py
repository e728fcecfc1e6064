#!/usr/bin/env python3
"""Classify images with the release that is current on this device.

    python3 classify.py ROOT/APP IMAGE [IMAGE ...] [--top N] [--json]

ROOT/APP is the folder of the app, such as ~/.ofa-edge/camera: `current` in it leads to the release, its file `mode`,
where there is one, names which of the subnets to use. Needs Python 3.9, numpy, Pillow, and the runtime that the release
is for (onnxruntime, or ai-edge-litert or tflite-runtime); nothing of ofa-edge, and no compiler. preprocess.py lies
beside it: the network was trained and evaluated with it.

A service keeps one Classifier, and makes a new one when it is told that the release or the mode has changed
(`deploy --post-switch`, or by looking at `stale` now and then).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import sys
from typing import Any, Callable

import numpy as np
import preprocess

# Image (1, 3, R, R) or (1, R, R, 3), as the manifest says, to the classes' scores.
Run = Callable[[np.ndarray], np.ndarray]


class Classifier:
    """The current release of an app, in its current mode, ready to run."""

    def __init__(self, app: str):
        self._app = app
        # Where `current` leads is asked once: all files are of one release, whatever a deployment does meanwhile.
        folder = os.path.realpath(os.path.join(app, "current"))
        with open(os.path.join(folder, "manifest.json"), "rb") as file:
            self.manifest = json.loads(file.read())
        wanted = self._wanted_mode()
        modes = {mode["name"]: mode for mode in self.manifest["modes"]}
        self.mode: dict[str, Any] = modes.get(wanted, self.manifest["modes"][0])
        self._chosen = (folder, wanted)
        name = self.mode["model"]
        with open(os.path.join(folder, name), "rb") as file:
            model = file.read()
        entry = next(entry for entry in self.manifest["files"] if entry["name"] == name)
        if hashlib.sha256(model).hexdigest() != entry["sha256"]:
            raise ValueError(f"{name} is not the file that the manifest names")
        runs = self.mode["runs"]
        self._run = {"onnxruntime": _onnxruntime, "litert": _litert}[runs["runtime"]](model, runs["threads"])

    @property
    def stale(self) -> bool:
        """Whether another release or mode is to be used by now."""
        folder = os.path.realpath(os.path.join(self._app, "current"))
        return (folder, self._wanted_mode()) != self._chosen

    def scores(self, image: bytes) -> np.ndarray:
        """What the network says of an encoded image (JPEG, PNG, ...), one number a class.

        Raises:
            ValueError: it is no image.
        """
        return self._run(preprocess.network_input(image, self.mode["input"])).reshape(-1)

    def classify(self, image: bytes, top: int = 1) -> list[tuple[str, float]]:
        """The likeliest classes with their probabilities. Raises as `scores`."""
        scores = self.scores(image).astype(np.float64)
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        labels = self.manifest["labels"] or [str(index) for index in range(len(shares))]
        return [(labels[index], float(shares[index])) for index in np.argsort(-shares, kind="stable")[:top]]

    def _wanted_mode(self) -> str:
        """The name in the file `mode`; a release that lacks it runs in its first mode."""
        try:
            with open(os.path.join(self._app, "mode"), encoding="ascii") as file:
                return file.read(100).strip()
        except (OSError, ValueError):
            return ""


def _onnxruntime(model: bytes, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: np.asarray(session.run(None, {name: image})[0])


def _litert(model: bytes, threads: int) -> Run:
    interpreter = _interpreter()(model_content=model, num_threads=threads)
    interpreter.allocate_tensors()
    entry, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def run(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(entry["index"], np.ascontiguousarray(_quantised(image, entry)))
        interpreter.invoke()
        return _dequantised(interpreter.get_tensor(result["index"]), result)

    return run


def _interpreter() -> Any:
    for module in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"):
        try:
            return importlib.import_module(module).Interpreter
        except ImportError:
            continue
    raise ImportError("install ai-edge-litert (on 32-bit Arm tflite-runtime)")


def _quantised(image: np.ndarray, entry: Any) -> np.ndarray:
    """int8 files take integers: value = (integer - zero) * scale."""
    scale, zero = entry["quantization"]
    if np.dtype(entry["dtype"]).kind == "f" or not scale:
        return image
    limits = np.iinfo(entry["dtype"])
    return np.clip(np.rint(image / scale) + zero, limits.min, limits.max).astype(entry["dtype"])


def _dequantised(scores: np.ndarray, entry: Any) -> np.ndarray:
    scale, zero = entry["quantization"]
    return np.float32(scale) * (scores.astype(np.int32) - zero) if scale else scores


def main() -> int:
    """Print a line an image; exit 1 where one of them was none."""
    parser = argparse.ArgumentParser(description="Classify images with the current release.")
    parser.add_argument("app", help="the app's folder, such as ~/.ofa-edge/camera")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--top", type=int, default=1, metavar="N", help="how many classes to print")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    given = parser.parse_args()
    try:
        classifier = Classifier(os.path.expanduser(given.app))
    except (OSError, ValueError, KeyError, ImportError) as error:
        print(f"no release can be used in {given.app}: {error}", file=sys.stderr)
        return 1
    failed = 0
    for path in given.images:
        try:
            with open(path, "rb") as file:
                found = classifier.classify(file.read(), given.top)
        except (OSError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            failed += 1
            continue
        if given.json:
            classes = [{"label": label, "probability": share} for label, share in found]
            print(json.dumps({"image": path, "classes": classes}))
        else:
            print(f"{path}: " + ", ".join(f"{label} {100 * share:.1f} %" for label, share in found))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

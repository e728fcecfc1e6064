"""What the experiments share: a seeded subset of a data set, commands run as a user types them, a table in Markdown.

Every step is an `ofa-edge` command, printed as it starts, so that what a table shows can be repeated by hand. A step
whose result exists is not repeated, and a training that was stopped is resumed.
"""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from ofa_edge.train.images import load_images

Row = dict[str, Any]

# Training images kept out to watch the training with; what is reported is top-1 on the validation split.
HELDOUT = 500


def ofa_edge(*arguments: object) -> Any:
    """Run `ofa-edge ... --json`; its JSON value. Progress goes to standard error as it comes.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    words = ["ofa-edge", *map(str, arguments)]
    print("$", shlex.join(words), file=sys.stderr, flush=True)
    command = [str(Path(sys.executable).with_name(words[0])), *words[1:], "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def subset(data: Path, out: Path, images: int, seed: int = 0) -> Path:
    """A folder with `images` training images of `data`, drawn by seed, and all of its validation images."""
    out.mkdir(parents=True, exist_ok=True)
    for split, limit in (("train", images), ("val", None)):
        target = out / f"{split}.parquet"
        if target.exists():
            continue
        encoded = _encoded(data, split)
        order = np.sort(np.random.default_rng(seed).permutation(len(encoded))[:limit])
        part = target.with_suffix(".part")
        pyarrow.parquet.write_table(encoded.take(order), part)
        part.rename(target)
    return out


def _encoded(data: Path, split: str) -> pyarrow.Table:
    """The split as a table image{bytes,path}, label; pixels that have no file of their own become PNG."""
    parquet = data / f"{split}.parquet"
    if parquet.exists():
        return pyarrow.parquet.read_table(parquet, columns=["image", "label"])
    loaded = load_images(data, split)
    files = []
    for pixels, name in zip(loaded.images, loaded.names, strict=True):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        files.append({"bytes": file.getvalue(), "path": name})
    return pyarrow.table({"image": files, "label": loaded.labels})


def train(out: Path, *arguments: object) -> Path:
    """The checkpoint of a training in `out`: as it is, resumed, or from its start."""
    checkpoint = out / "supernet.safetensors"
    if not checkpoint.exists():
        resume = ["--resume"] if (out / "state.pt").exists() else []
        ofa_edge("train", "--out", out, "--heldout", HELDOUT, *arguments, *resume)
    return checkpoint


def evaluate(table: Path, archs: Sequence[Row], *arguments: object) -> list[float]:
    """Top-1 in percent of archs (OFA's dicts) on the validation split, batch norm recalibrated, in their order.

    The accuracy table is filled where it lacks one.
    """
    listed = table.with_suffix(".archs.json")
    listed.write_text(json.dumps(list(archs)))
    resume = ["--resume"] if table.exists() else []
    judged = ("--split", "val", "--heldout", HELDOUT, "--bn", "recalibrated")
    ofa_edge("evaluate", "--arch", listed, "--out", table, *judged, *arguments, *resume)
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    found = {_key(row["arch"]): 100 * row["correct"] / row["n"] for row in rows if row["record"] == "subnet"}
    return [found[_key(arch)] for arch in archs]


def _key(arch: Row) -> str:
    return json.dumps(arch, sort_keys=True)


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; numbers with one decimal."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(f"{c:.1f}" if isinstance(c, float) else str(c) for c in line) + " |" for line in lines
    )

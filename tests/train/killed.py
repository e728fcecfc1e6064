"""A training run that kills itself with SIGKILL: `python -m tests.train.killed OUT SAVE`.

It dies in its SAVE-th save, when half of the state is written: what a power cut or an out-of-memory kill leaves.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from ofa_edge.train import state
from tests.train import runs


def main() -> None:
    out, last = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    write, saves = state.write_whole, 0

    def half(path: Path, content: bytes) -> None:
        nonlocal saves
        saves += 1

        def die(descriptor: int) -> None:
            os.ftruncate(descriptor, len(content) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

        if saves == last:
            os.fsync = die
        write(path, content)

    state.write_whole = half
    runs.trainer(out, recipe=runs.PROGRESSIVE).run()


if __name__ == "__main__":
    main()

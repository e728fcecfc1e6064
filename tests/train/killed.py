"""A training run that kills itself with SIGKILL: `python -m tests.train.killed OUT SAVE`.

It dies in its SAVE-th save, when half of the state is written: what a power cut or an out-of-memory kill leaves.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from tests.train import runs


def main() -> None:
    out, last = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    save, saves = torch.save, 0

    def half(state: Any, file: Any) -> None:
        nonlocal saves
        saves += 1
        if saves < last:
            save(state, file)
            return
        whole = io.BytesIO()
        save(state, whole)
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = half
    runs.trainer(out, recipe=runs.PROGRESSIVE).run()


if __name__ == "__main__":
    main()

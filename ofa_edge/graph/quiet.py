"""Keeps what runtimes and quantisers print away from our own output.

In: a block of code. Out: nothing of its own. Rule kept: exceptions pass; whatever the code writes to stdout and stderr,
also below Python, does not.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Libraries print, on stdout too, which belongs to our data; they warn of what they do on purpose; and LiteRT
    writes to the descriptor of stderr itself. Not for several threads at a time."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    said = io.StringIO()
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        logging.disable(before)

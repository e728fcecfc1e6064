"""Safetensors files in memory: arrays and metadata out of their bytes, and bytes that depend on both alone.

In: bytes that may be damaged or hostile. Out: named arrays and text by key. Rule kept: what is no such file is a
ValueError, of whatever type the library's own error is; the caller knows the path and says what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from ofa_edge import strict_json


def parse(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by name, and the metadata, {} where there is none; the library has seen to it that it is text by key.

    Raises:
        ValueError: it is no safetensors file, or holds a type that numpy has not.
    """
    try:
        return safetensors.numpy.load(content), _header(content).get("__metadata__") or {}
    except (safetensors.SafetensorError, KeyError) as error:  # KeyError: a type numpy has not
        raise ValueError(str(error)) from error


def serialise(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """The file with its header's keys in order: safetensors writes metadata in a random one, and the sha256 of a file
    is its name in what is made with it."""
    content = safetensors.numpy.save(dict(arrays), metadata=dict(metadata))
    header = strict_json.canonical(_header(content))
    header += b" " * (-len(header) % 8)  # the tensors stay aligned
    return len(header).to_bytes(8, "little") + header + content[8 + _header_size(content) :]


def _header(content: bytes) -> dict[str, Any]:
    value: dict[str, Any] = strict_json.loads(content[8 : 8 + _header_size(content)])
    return value


def _header_size(content: bytes) -> int:
    return int.from_bytes(content[:8], "little")

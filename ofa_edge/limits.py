"""Every byte cap and deadline of the host, each a named field of one value.

Nothing that comes from a device or a file is waited for or read without one of these. Seconds and bytes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Defaults suit a slow single-board computer on a home network.

    Args:
        connect_seconds: TCP connection, SSH banner, key exchange and authentication, each.
        lost_seconds: unacknowledged data or silence on the wire after which a TCP link counts as cut.
        handshake_seconds: from starting the agent to its first line; a Pi imports for seconds.
        reply_seconds: an ordinary request.
        load_seconds: on top of a job's own limit: starting a worker, loading the runtime and the model.
        close_seconds: waiting for the agent to stop after its stdin was closed.
        put_seconds: silence while a file travels; its whole way may take this and its size over put_rate.
        put_rate: bytes a second; below it a transfer counts as stuck.
        alive_seconds: how often the agent is told, while a file travels, that the host is there; a sixth of the
            silence after which an agent with a deployment lock gives up.
        noise_bytes: login-shell output skipped before the agent's first line.
        stderr_bytes: kept of what the agent's process said on stderr.
        line_bytes: one protocol line.
        pack_bytes: blobs that travel in one transfer.
        request_jobs: measure jobs in one request.
        ssh_config_bytes: output of `ssh -G`, and a known_hosts file.
        manifest_bytes: a bundle's manifest; the agent has the same cap.
        bundle_bytes: all other files of a bundle together.
        checkpoint_bytes: a supernet's file; the largest published one has 200 MB in single precision.
    """

    connect_seconds: float = 15.0
    lost_seconds: float = 15.0
    handshake_seconds: float = 60.0
    reply_seconds: float = 120.0
    load_seconds: float = 120.0
    close_seconds: float = 5.0
    put_seconds: float = 60.0
    put_rate: int = 16 << 10
    alive_seconds: float = 30.0
    noise_bytes: int = 1 << 20
    stderr_bytes: int = 8 << 10
    line_bytes: int = 1 << 20
    pack_bytes: int = 64 << 20
    request_jobs: int = 200
    ssh_config_bytes: int = 4 << 20
    manifest_bytes: int = 256 << 10
    bundle_bytes: int = 256 << 20
    checkpoint_bytes: int = 4 << 30


LIMITS = Limits()

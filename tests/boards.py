"""What boards that are none say of themselves: four cores that a governor leaves at full speed."""

from __future__ import annotations

from device_agents import wire

BOARD = wire.Facts(
    device_model="Simulated Board",
    soc="SIM1",
    machine="aarch64",
    kernel="Linux 6.1",
    python="3.11.2",
    cores=4,
    core_mask=(0, 1, 2, 3),
    governor="performance",
    memory_bytes=1 << 30,
    emulated=False,
    runtimes={"onnxruntime": "1.31.1"},
    serial="0001",
    boot_id="4d5c1a62-0000-4000-8000-000000000001",
    agent="0.1.0",
)

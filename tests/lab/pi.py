"""An arm64 'Raspberry Pi 4' to test against: Debian's own binaries under qemu-user behind a real sshd.

Its sensors (thermal zone, governor, clock, vcgencmd's throttle bits) are plain files that a test rewrites. It has no
pip, no network and no runtime, as many a device. Its timings say nothing: user-mode emulation is 500 to 1000 times
slower, and not evenly. The tree is built once into a folder and started again from there.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.sshd import free_port, keygen

HERE = Path(__file__).parent
CACHE_VARIABLE = "OFA_EDGE_LAB_CACHE"
BUILD = "debian-12-arm64-1"  # change it when build_pi.sh makes another tree

_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_EMULATOR = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
_UID = 1000

_SSHD_CONFIG = """\
HostKey /etc/lab/host_key
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
Subsystem sftp internal-sftp
PidFile none
SetEnv QEMU_CPU=cortex-a72
"""

_VCGENCMD = """\
#!/bin/sh
case "$1" in
get_throttled) cat /etc/lab/throttled ;;
*) echo 'error=1 error_msg="Command not registered"' ;;
esac
"""


def unavailable() -> str:
    """Why the lab cannot be built here, in a sentence; '' where it can."""
    if os.geteuid() != 0:
        return "the lab needs root (mount namespaces, binfmt_misc)"
    for program, package in (
        ("mmdebstrap",) * 2,
        ("qemu-aarch64-static", "qemu-user-static"),
        ("sshd", "openssh-server"),
    ):
        if shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin") is None:
            return f"the lab needs {program}: apt-get install {package}"
    try:
        if not (_BINFMT / "register").exists():
            subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", _BINFMT], check=True, capture_output=True)
        if not (_BINFMT / "qemu-aarch64").exists():
            (_BINFMT / "register").write_text(_EMULATOR.read_text().strip())
        subprocess.run(["unshare", "--mount", "--uts", "--pid", "--fork", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return "the lab needs binfmt_misc and mount namespaces, which this system does not let us have"
    return ""


def folder() -> Path:
    """Where the tree and the packages for it are kept between runs."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path("/var/tmp") / f"ofa-edge-lab-{os.geteuid()}"


@dataclass
class Pi:
    """A running one.

    Attributes:
        root: of its file system, seen from here.
        config: an ssh_config that knows its key and ours.
    """

    root: Path
    work: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def host(self) -> str:
        return f"pi@127.0.0.1:{self.port}"

    @property
    def config(self) -> Path:
        return self.work / "ssh_config"

    @property
    def home(self) -> Path:
        return self.root / "home/pi"

    def heat(self, millidegrees: int) -> None:
        _set(self.root / "sys/class/thermal/thermal_zone0/temp", f"{millidegrees}")

    def throttle(self, bits: int) -> None:
        _set(self.root / "etc/lab/throttled", f"throttled={bits:#x}")

    def govern(self, governor: str) -> None:
        for path in self.root.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"):
            _set(path, governor)

    def calm(self) -> None:
        """As a Pi in a cool room that nobody has touched."""
        self.heat(48_000)
        self.throttle(0)
        self.govern("ondemand")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


def _set(sensor: Path, value: str) -> None:
    """At once, as sysfs does: an agent that reads meanwhile would see an emptied file as one that tells nothing."""
    fresh = sensor.with_name(f".{sensor.name}")
    fresh.write_text(f"{value}\n")
    fresh.replace(sensor)


def build() -> Path:
    """The root tree, out of the cache or made now (20 s and 100 MB of Debian packages)."""
    root = folder() / BUILD
    if not root.is_dir():
        folder().mkdir(parents=True, exist_ok=True)
        subprocess.run([HERE / "build_pi.sh", root], check=True, capture_output=True)
    return root


def start(work: Path) -> Pi:
    """Boot it, freshly installed as it were; `work` takes the client's keys."""
    root, port = build(), free_port()
    shutil.rmtree(root / "home/pi")
    (root / "home/pi/.ssh").mkdir(mode=0o700, parents=True)
    keygen(work / "key")
    keys = root / "home/pi/.ssh/authorized_keys"
    shutil.copy(work / "key.pub", keys)
    for path in (root / "home/pi", keys.parent, keys):
        os.chown(path, _UID, _UID)
    lab = root / "etc/lab"
    for name in ("host_key", "host_key.pub"):
        (lab / name).unlink(missing_ok=True)
    keygen(lab / "host_key")
    (lab / "sshd_config").write_text(_SSHD_CONFIG)
    shutil.copy(HERE / "pi4_cpuinfo", lab / "cpuinfo")
    _write_sensors(root)
    kind, key = (lab / "host_key.pub").read_text().split()[:2]
    (work / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    (work / "ssh_config").write_text(
        f"Host *\n  IdentityFile {work}/key\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {work}/known_hosts\n  GlobalKnownHostsFile none\n"
    )
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(
            [HERE / "run_pi.sh", root, str(port)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    pi = Pi(root, work, port, process)
    pi.calm()
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return pi
        if process.poll() is not None:
            break
        time.sleep(0.05)
    pi.stop()
    raise RuntimeError(f"the Pi did not start: {(work / 'log').read_text()[-800:]}")


def _write_sensors(root: Path) -> None:
    """Plain files where a Pi has sysfs, and a vcgencmd that reads one."""
    shutil.rmtree(root / "sys")
    zone, base = root / "sys/class/thermal/thermal_zone0", root / "sys/firmware/devicetree/base"
    for made in (zone, base):
        made.mkdir(parents=True)
    (zone / "type").write_text("cpu-thermal\n")
    (base / "model").write_bytes(b"Raspberry Pi 4 Model B Rev 1.5\0")
    (base / "compatible").write_bytes(b"raspberrypi,4-model-b\0brcm,bcm2711\0")
    for core in range(4):
        frequency = root / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        frequency.mkdir(parents=True)
        for name, value in (
            ("scaling_min_freq", 600_000),
            ("scaling_max_freq", 1_800_000),
            ("scaling_cur_freq", 1_800_000),
            ("cpuinfo_max_freq", 1_800_000),
        ):
            (frequency / name).write_text(f"{value}\n")
        (frequency / "scaling_governor").write_text("ondemand\n")
    for name in ("possible", "present", "online"):
        (root / f"sys/devices/system/cpu/{name}").write_text("0-3\n")
    vcgencmd = root / "usr/bin/vcgencmd"
    vcgencmd.write_text(_VCGENCMD)
    vcgencmd.chmod(0o755)

#!/usr/bin/env bash
# run_pi.sh ROOT PORT: be the 'Raspberry Pi 4' of ROOT, an sshd of arm64 code on 127.0.0.1:PORT, until killed.
#
# In: a tree of build_pi.sh with ROOT/etc/lab/{sshd_config,cpuinfo} and plain files below ROOT/sys and
# ROOT/etc/lab/throttled that are its sensors: a test rewrites them. Runs under qemu-user in namespaces of its own
# (mounts, host name, processes); `kill -9` of this process ends all of them. Needs root and binfmt_misc.
#
# Nothing of the host's /sys or cpuinfo may be seen: ONNX Runtime and XNNPACK under qemu-user crash on x86's.
set -eu

root="$(cd "$1" && pwd)"
port="$2"
export root port
exec unshare --mount --uts --pid --fork --kill-child=KILL bash -eu -c '
    mount --make-rprivate /
    mount -t proc proc "$root/proc"
    mount --bind "$root/etc/lab/cpuinfo" "$root/proc/cpuinfo"
    mount -t tmpfs dev "$root/dev"
    for name in null zero full random urandom tty; do
        touch "$root/dev/$name"
        mount --bind "/dev/$name" "$root/dev/$name"
    done
    mkdir -p "$root/dev/pts" "$root/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    mount -t tmpfs shm "$root/dev/shm"
    mount -t tmpfs run "$root/run"
    mkdir -p "$root/run/sshd"
    hostname raspberrypi
    exec chroot "$root" /usr/bin/env -i QEMU_CPU=cortex-a72 PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /usr/sbin/sshd -D -e -p "$port" -o ListenAddress=127.0.0.1 -f /etc/lab/sshd_config
'

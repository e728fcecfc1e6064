#!/usr/bin/env bash
# build_pi.sh ROOT: the root tree of an arm64 Debian 12 'Raspberry Pi 4', made without running a line of arm64 code.
#
# In: a folder to make, which must not exist. Out: that folder, whole (it is made under another name and renamed).
# Needs root and mmdebstrap; packages come from the mirror this machine already uses. There is no pip in the tree and,
# once it runs, no network, as on many a device.
set -euo pipefail

root="$1"
part="$root.part"
mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)"
packages=base-files,base-passwd,bash,coreutils,dash,grep,libc-bin,libgomp1,libstdc++6,login,openssh-server
packages+=,openssh-sftp-server,passwd,procps,python3,sed,tar,util-linux

rm -rf "$part"
mkdir -p "$(dirname "$part")"
# Nothing of a package is run: `extract` unpacks only, and the few files its scripts would write follow below.
mmdebstrap --quiet --architectures=arm64 --variant=extract --mode=root --skip=check/qemu \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' --include="$packages" bookworm "$part" "deb $mirror bookworm main"

cp "$part/usr/share/base-passwd/passwd.master" "$part/etc/passwd"
cp "$part/usr/share/base-passwd/group.master" "$part/etc/group"
sed -i 's/:\*:/:x:/' "$part/etc/passwd"
echo 'sshd:x:102:65534::/run/sshd:/usr/sbin/nologin' >>"$part/etc/passwd"
echo 'pi:x:1000:1000:,,,:/home/pi:/bin/bash' >>"$part/etc/passwd"
echo 'pi:x:1000:' >>"$part/etc/group"
awk -F: '{print $1":*:19000:0:99999:7:::"}' "$part/etc/passwd" >"$part/etc/shadow"
chmod 640 "$part/etc/shadow"
printf 'passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n' >"$part/etc/nsswitch.conf"
echo raspberrypi >"$part/etc/hostname"
echo '127.0.0.1 localhost raspberrypi' >"$part/etc/hosts"
mkdir -p "$part/home/pi/.ssh" "$part/etc/lab" "$part/run/sshd" "$part/proc" "$part/sys" "$part/dev" "$part/tmp"
chmod 1777 "$part/tmp"
chmod 700 "$part/home/pi/.ssh"
chown -R 1000:1000 "$part/home/pi"
mv "$part" "$root"

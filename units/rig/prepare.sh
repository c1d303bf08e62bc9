#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# prepare.sh SUITE MIRROR DIR [BASE PACKAGE...]: makes a root file system that the rig can boot.
#
# Without BASE, from the archive MIRROR by debootstrap; otherwise a copy of the root BASE with more packages in it. Runs as
# root in a mount namespace of its own, so what it mounts goes when it ends, however that is.
#
# A checksum of this file names the result: whatever changes here makes every root anew.
set -eu
suite=$1 mirror=$2 dir=$3
base=${4:-}
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

if [ -z "$base" ]; then
	# dbus-user-session and libpam-systemd give users a service manager of their own; socat is the plainest client there is.
	debootstrap --variant=minbase \
		--include=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,procps,socat "$suite" "$dir" "$mirror"
	# One id for all boots: systemd would take a root without any for its first boot, and enable every unit there is.
	systemd-machine-id-setup --root="$dir"
	# They need a network, and would spoil measurements without.
	for unit in apt-daily.timer apt-daily-upgrade.timer; do
		ln -sf /dev/null "$dir/etc/systemd/system/$unit"
	done
	echo rig >"$dir/etc/hostname"
	rm -f "$dir"/var/cache/apt/archives/*.deb
	exit 0
fi

shift 4
cp -a --reflink=auto "$base" "$dir"
mount -t proc proc "$dir/proc"
mount --rbind /dev "$dir/dev"
cp /etc/resolv.conf "$dir/etc/resolv.conf"
case $mirror in
https:*) # The root has no certificates of its own.
	mkdir -p "$dir/etc/ssl/certs"
	mount --bind /etc/ssl/certs "$dir/etc/ssl/certs"
	;;
esac
# Services must not start while they are installed (invoke-rc.d obeys this file).
printf '#!/bin/sh\nexit 101\n' >"$dir/usr/sbin/policy-rc.d"
chmod 755 "$dir/usr/sbin/policy-rc.d"
# As debootstrap does: signatures are checked, dates are not, so that a snapshot or a wrong clock is no obstacle.
chroot "$dir" apt-get -q -o Acquire::Check-Valid-Until=false -o Acquire::Check-Date=false update
chroot "$dir" apt-get -q -y --no-install-recommends install "$@"
rm -f "$dir/usr/sbin/policy-rc.d" "$dir/etc/resolv.conf" "$dir"/var/cache/apt/archives/*.deb

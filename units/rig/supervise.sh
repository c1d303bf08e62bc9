#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# supervise.sh ROOT NAME CGROUP...: runs one container until it powers itself off or standard input ends.
#
# Standard input is a pipe from the test. It ends when the test closes it and when the test dies in whatever way, and then
# everything in the container is killed: no interrupted test leaves a container behind. CGROUP are folders that the
# container gets to itself, one per hierarchy; the first is in the unified one. They are removed at the end.
set -eu
root=$1 name=$2
shift 2
mkdir "$@"

exec 3<&0 </dev/null
(
	exec 3<&-
	for cgroup; do
		# The subshell's own id, which $$ is not.
		sh -c 'echo "$PPID"' >"$cgroup/cgroup.procs"
	done
	# A mount namespace of its own: what systemd-nspawn makes in these two folders goes away with it, even by SIGKILL.
	# shellcheck disable=SC2016 # for the inner shell
	exec unshare --mount sh -c '
		mkdir -p /run/systemd
		mount -t tmpfs -o mode=755 tmpfs /run/systemd
		mount -t tmpfs -o mode=1777 tmpfs /tmp
		exec "$@"' sh \
		env UNIFIED_CGROUP_HIERARCHY=1 SYSTEMD_NSPAWN_LOCK=0 \
		systemd-nspawn --quiet --settings=no --register=no --keep-unit --boot --console=pipe \
		--directory="$root" --volatile=overlay --machine="$name" --hostname=rig \
		--private-network --resolv-conf=off --timezone=off --link-journal=no
) &
nspawn=$!

(
	# Ends with the pipe, or is killed below. Nothing is ever written.
	read -r _ <&3 || :
	echo 1 >"$1/cgroup.kill"
) &
watch=$!
exec 3<&-

status=0
wait "$nspawn" || status=$?
kill "$watch" 2>/dev/null || :
# systemd-nspawn can die and leave the container alive.
echo 1 >"$1/cgroup.kill"
# A killed process leaves its cgroup when it is reaped, which may take a moment.
for _ in 1 2 3 4 5 6 7 8 9 10; do
	find "$@" -depth -type d -exec rmdir {} + 2>/dev/null && break
	sleep 0.1
done
exit "$status"

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# build.sh FOLDER: makes the packages of the bridge to NATS, as ../build.sh does those of msgmux, with the same variables.
set -euo pipefail
umask 022
export LC_ALL=C TZ=UTC
shopt -s nullglob

cd "$(dirname "$0")/../.."
mkdir -p "${1:?the folder for the packages is missing}"
out=$(cd "$1" && pwd)
version=${VERSION:-$(git describe --tags --always --dirty)}
commit=${COMMIT:-$(git rev-parse HEAD)}
. packaging/common.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

files=$work/files
put 644 "$files/usr/lib/systemd/system" units/nats/*.service
install -D -m 644 packaging/nats/sysusers.conf "$files/usr/lib/sysusers.d/msgmux-nats.conf"
install -D -m 644 packaging/nats/preset "$files/usr/lib/systemd/system-preset/90-msgmux-nats.preset"
install -d -m 755 "$files/etc/msgmux/nats"
put 644 "$files/usr/share/man/man8" docs/man/msgmux-nats.8
gzip -n -9 "$files/usr/share/man/man8/msgmux-nats.8"
doc=$files/usr/share/doc/msgmux-nats
put 644 "$doc" docs/admin/bridge.md
# Its links lead to documents of the other package.
sed -i 's|](\.\./|](../msgmux/|g' "$doc/bridge.md"
go run ./packaging/generate copyright cmd/msgmux-nats >"$doc/copyright"
go run ./packaging/generate changelog deb "$PACKAGE_VERSION" "$date" | sed 's/^msgmux (/msgmux-nats (/' | gzip -n -9 >"$doc/changelog.gz"
put 644 "$work/deb/usr/share/lintian/overrides" packaging/nats/msgmux-nats
cp -r packaging/nats/scripts "$work/scripts"

cp packaging/nats/nfpm.yaml "$work/nfpm.yaml"
for arch in ${ARCHES:-amd64 arm64}; do
	rm -rf "${files:?}/usr/bin"
	(cd cmd/msgmux-nats && build "$arch" "$files/usr/bin" .)
	chmod 755 "$files"/usr/bin/*
	find "$work" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	for format in ${FORMATS:-deb rpm}; do
		(cd "$work" && PACKAGE_ARCH=$arch go run "$nfpm" package --config nfpm.yaml --packager "$format" --target "$out" >"$work/log") || { cat "$work/log" >&2; exit 1; }
	done
done
(cd "$out" && ls -l -- msgmux-nats[-_]*) | awk '{ print $5, $9 }'

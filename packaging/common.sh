# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# What the scripts that make packages have in common. They source it in the top folder, with version and commit set.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct "${commit:?}")
export SOURCE_DATE_EPOCH
date=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)

# Pinned, and run by version, so that it never enters go.mod.
# shellcheck disable=SC2034 # whoever sources this uses it
nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2

# package_version: what git describe says, in a form in which later is higher for dpkg and rpm alike, and no hyphen is left.
#   v1.2.3 -> 1.2.3    v1.2.3-rc1 -> 1.2.3~rc1    v1.2.3-4-gabc -> 1.2.3+4.gabc    no tag: abc -> 0~git20260102030405.abc
package_version() {
	local v=${version#v} suffix=
	case $v in *-dirty) v=${v%-dirty} suffix=+dirty ;; esac
	if [[ $v =~ ^(.*)-([0-9]+)-(g[0-9a-f]+)$ ]]; then
		v=${BASH_REMATCH[1]//-/\~}+${BASH_REMATCH[2]}.${BASH_REMATCH[3]}
	elif [[ $v =~ ^[0-9]+\.[0-9]+ ]]; then
		v=${v//-/\~}
	else
		v="0~git$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S).$v"
	fi
	echo "$v$suffix"
}
PACKAGE_VERSION=$(package_version)
export PACKAGE_VERSION

# build ARCH FOLDER PACKAGE...: static binaries of packages of the module in the working folder. They need no compiler of the
# architecture.
build() {
	local arch=$1 to=$2
	shift 2
	mkdir -p "$to"
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOFLAGS="" go build -trimpath -buildvcs=false -tags "${TAGS:-}" \
		-ldflags "-s -w -X main.version=$version -X main.commit=$commit -X main.date=$date" -o "$to/" "$@"
}

# put MODE FOLDER FILE...: copies files, if there are any.
put() {
	local mode=$1 to=$2
	shift 2
	local file
	for file; do
		[ -d "$file" ] || install -D -m "$mode" -t "$to" "$file"
	done
}

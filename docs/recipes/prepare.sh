#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# prepare.sh DIR PACKAGE...: unpacks Debian packages, each into DIR/PACKAGE with what it needs that is not installed.
#
# Unpacked and not installed, because an installed daemon would be started and enabled on the machine that runs the tests,
# and because rsyslog and syslog-ng exclude each other. Needs apt-get and its package lists; root only to fetch those lists.
set -eu
dir=$1
shift
mkdir -p "$dir"

unpack() {
	plan=$(apt-get -s -y --no-install-recommends install "$1") || return 1
	others=$(echo "$plan" | awk -v package="$1" '$1 == "Inst" && $2 != package { print $2 }')
	rm -rf "$dir/$1.partial"
	mkdir "$dir/$1.partial"
	# apt-get download puts the files into the working directory.
	# shellcheck disable=SC2086 # a list of words
	(cd "$dir/$1.partial" && apt-get -q download "$1" $others && for deb in *.deb; do dpkg-deb -x "$deb" . || exit 1; done &&
		rm -f -- *.deb) || return 1
	mv "$dir/$1.partial" "$dir/$1"
}

updated=
for package; do
	[ ! -d "$dir/$package" ] || continue
	unpack "$package" && continue
	# A fresh image has no package lists; old ones name files that are gone.
	if [ -n "$updated" ] || [ "$(id -u)" != 0 ]; then exit 1; fi
	updated=yes
	apt-get -q update
	unpack "$package"
done

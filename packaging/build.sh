#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# build.sh FOLDER: makes the packages of the commit that is checked out and puts them into FOLDER.
#
#   VERSION   what git describe says, unless set
#   COMMIT    what they say they are of, with its time; the one that is checked out, unless set
#   ARCHES    amd64 arm64
#   FORMATS   deb rpm
#   TAGS      build tags, for tests
#
# The same commit gives the same bytes: every time in them is that of the commit, every mode is set here, and nothing
# depends on where or by whom it is built.
set -euo pipefail
umask 022
export LC_ALL=C TZ=UTC
shopt -s nullglob

cd "$(dirname "$0")/.."
mkdir -p "${1:?the folder for the packages is missing}"
out=$(cd "$1" && pwd)
version=${VERSION:-$(git describe --tags --always --dirty)}
commit=${COMMIT:-$(git rev-parse HEAD)}
. packaging/common.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What is the same for every architecture and format. Globs, so that what is added later is there by itself.
files=$work/files
put 644 "$files/usr/lib/systemd/system" units/system/*
put 644 "$files/usr/lib/systemd/user" units/user/*
put 644 "$files/usr/lib/sysusers.d" packaging/sysusers.d/*.conf
put 644 "$files/usr/lib/tmpfiles.d" packaging/tmpfiles.d/*.conf
put 644 "$files/usr/lib/sysctl.d" packaging/sysctl.d/*.conf
put 644 "$files/usr/lib/systemd/system-preset" packaging/preset/*.preset
put 644 "$files/usr/lib/systemd/catalog" packaging/catalog/*.catalog
put 644 "$files/usr/share/dbus-1/system.d" packaging/dbus/*.conf
put 644 "$files/usr/share/dbus-1/system-services" packaging/dbus/*.service
put 644 "$files/usr/share/dbus-1/interfaces" packaging/dbus/*.xml

build "$(go env GOHOSTARCH)" "$work/host" ./cmd/msgmux
mkdir -p "$files"/usr/share/{bash-completion/completions,fish/vendor_completions.d} \
	"$work"/{deb/usr/share/zsh/vendor-completions,rpm/usr/share/zsh/site-functions}
"$work/host/msgmux" completion bash >"$files/usr/share/bash-completion/completions/msgmux"
"$work/host/msgmux" completion zsh | tee "$work/deb/usr/share/zsh/vendor-completions/_msgmux" >"$work/rpm/usr/share/zsh/site-functions/_msgmux"
"$work/host/msgmux" completion fish >"$files/usr/share/fish/vendor_completions.d/msgmux.fish"

# Documents lie as in docs/, the README above them. Their links to what is not packaged lead to the repository instead.
repository=https://github.com/msgmux/msgmux/blob/main
documents() {
	local to=$1 file out
	for file in README.md docs/*.{md,svg} docs/*/*.md; do
		out=$to/${file#docs/}
		install -D -m 644 "$file" "$out"
		case $file in
		*.svg) ;;
		docs/*/*) sed -i "s|](\.\./\.\./|]($repository/|g" "$out" ;;
		docs/*) sed -i "s|](\.\./|]($repository/|g" "$out" ;;
		*) sed -i "s#](docs/#](#g; s#](\(LICENSE\|CONTRIBUTING.md\|CHANGELOG.md\))#]($repository/\1)#g" "$out" ;;
		esac
	done
}

# Each format marks documents in its way. Debian wants the change log and the copyright file by these names.
for format in deb rpm; do
	documents "$work/$format/usr/share/doc/msgmux"
	examples=$work/$format/usr/share/doc/msgmux/examples
	put 644 "$examples" units/examples/*
	# All but run.sh, which wants what was built beside it; where Python has left something, not that.
	find docs/examples -type f ! -path docs/examples/run.sh ! -name '*.pyc' | while read -r file; do
		install -D -m 644 "$file" "$examples/${file#docs/examples/}"
	done
	for page in docs/man/*.[0-9]; do
		[ "${page##*/}" != msgmux-nats.8 ] || continue # packaging/nats has it
		put 644 "$work/$format/usr/share/man/man${page##*.}" "$page"
	done
	find "$work/$format/usr/share/man" -type f -exec gzip -n -9 {} +
done
doc=$work/deb/usr/share/doc/msgmux
go run ./packaging/generate changelog deb "$PACKAGE_VERSION" "$date" | gzip -n -9 >"$doc/changelog.gz"
go run ./packaging/generate copyright >"$doc/copyright"
put 644 "$work/deb/usr/share/lintian/overrides" packaging/lintian/msgmux
go run ./packaging/generate changelog rpm "$PACKAGE_VERSION" "$date" >"$work/changelog.yaml"
put 644 "$work/rpm/usr/share/doc/msgmux" CHANGELOG.md
put 644 "$work/rpm/usr/share/licenses/msgmux" LICENSE "$doc/copyright"

# The maintainer scripts name every unit. Instances of a template are named by a pattern, which matches those that are there.
units=() optional=() install_units=() stop=() user_units=() install_user_units=() user_stop=()
for file in units/system/*.{socket,service,target}; do
	unit=${file##*/}
	stop+=("'${unit/@./@*.}'")
	installable=false
	! grep -q '^\[Install\]' "$file" || installable=true
	! $installable || install_units+=("$unit")
	# As debhelper does, nothing is remembered of templates: what of them is enabled, and what for, is for the administrator.
	case $unit in *@.*) continue ;; esac
	units+=("$unit")
	case $unit in msgmux.target | msgmux.service) ;; *) ! $installable || optional+=("$unit") ;; esac
done
for file in units/user/*.{socket,service,target}; do
	unit=${file##*/}
	user_stop+=("'${unit/@./@*.}'")
	! grep -q '^\[Install\]' "$file" || install_user_units+=("$unit")
	case $unit in *@.*) ;; *) user_units+=("$unit") ;; esac
done
for script in packaging/scripts/*/*; do
	mkdir -p "$work/${script%/*}"
	sed -e "s|@UNITS@|${units[*]}|g" -e "s|@OPTIONAL_UNITS@|${optional[*]}|g" -e "s|@INSTALL_UNITS@|${install_units[*]}|g" \
		-e "s|@STOP_UNITS@|${stop[*]}|g" -e "s|@USER_UNITS@|${user_units[*]}|g" \
		-e "s|@INSTALL_USER_UNITS@|${install_user_units[*]}|g" -e "s|@STOP_USER_UNITS@|${user_stop[*]}|g" \
		"$script" >"$work/$script"
	if grep -n '@[A-Z_]*@' "$work/$script" >&2; then exit 1; fi
done
mv "$work/packaging/scripts" "$work/scripts"

# nfpm reads its file and everything that is named in it from the working folder. It cannot mark a
# whole folder as documents, and a folder of our own must be named, or rpm leaves it behind.
cp nfpm.yaml "$work/deb.yaml"
{
	cat nfpm.yaml
	(cd "$work/rpm" && find usr/share/doc/msgmux usr/share/licenses/msgmux -type d | sort) | while read -r folder; do
		printf '  - dst: /%s\n    type: dir\n    packager: rpm\n' "$folder"
	done
	(cd "$work" && find rpm -type f | sort) | while read -r file; do
		case $file in */licenses/*) kind=license ;; */doc/* | */man/*) kind=doc ;; *) kind="file" ;; esac
		printf '  - src: %s\n    dst: /%s\n    type: %s\n    packager: rpm\n' "$file" "${file#rpm/}" "$kind"
	done
	echo "changelog: changelog.yaml"
} >"$work/rpm.yaml"
for arch in ${ARCHES:-amd64 arm64}; do
	rm -rf "${files:?}/usr/bin"
	mkdir -p "$files/usr/bin"
	build "$arch" "$files/usr/bin" ./cmd/msgmux ./cmd/msgmuxd
	chmod 755 "$files"/usr/bin/*
	find "$work" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	for format in ${FORMATS:-deb rpm}; do
		(cd "$work" && PACKAGE_ARCH=$arch go run "$nfpm" package --config "$format.yaml" --packager "$format" --target "$out" >"$work/log") || { cat "$work/log" >&2; exit 1; }
	done
done
(cd "$out" && ls -l -- *.deb *.rpm) | awk '{ print $5, $9 }'

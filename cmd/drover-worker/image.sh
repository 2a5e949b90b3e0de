#!/bin/bash
# Builds the images drover-worker:dev and drover-worker-demo:dev from the binaries in bin/.
#
# Their base is BASE where that is set. Otherwise it is debian:bookworm-slim where the engine has or can pull it, and
# else drover-base:bookworm, which is made once, by debootstrap from the machine's own apt sources.
set -euo pipefail
cd "$(dirname "$0")/../.."

suite=bookworm
pulled_base=debian:$suite-slim
own_base=drover-base:$suite
packages=git,ca-certificates,openssh-client
pull_seconds=120

main() {
	docker version >/dev/null || fail "the images need a Docker engine"
	local base=${BASE:-}
	[[ $base ]] || base=$(find_base)
	build worker drover-worker:dev "$base"
	build demo drover-worker-demo:dev "$base"
}

find_base() {
	if have "$own_base"; then
		echo "$own_base"
	elif have "$pulled_base" || timeout "$pull_seconds" docker pull --quiet "$pulled_base" >/dev/null; then
		echo "$pulled_base"
	else
		echo "image: $pulled_base cannot be pulled; making $own_base by debootstrap" >&2
		make_base >&2
		echo "$own_base"
	fi
}

have() { docker image inspect "$1" >/dev/null 2>&1; }

make_base() {
	[[ $EUID == 0 ]] || fail "making $own_base needs root: run make image as root once, or set BASE to a Debian image"
	command -v apt-get >/dev/null || fail "making $own_base needs apt-get: set BASE to a Debian image"
	local mirror
	mirror=$(debian_mirror)
	if [[ -z $mirror ]]; then
		apt-get update -qq # the sources are known only with their lists
		mirror=$(debian_mirror)
	fi
	[[ $mirror ]] || fail "no Debian mirror among the apt sources: set BASE to a Debian image"
	if ! command -v debootstrap >/dev/null; then
		apt-get update -qq
		apt-get install --yes --no-install-recommends debootstrap
	fi

	scratch=$(mktemp -d /var/tmp/drover-base.XXXXXX) # not /tmp, which may forbid devices and programs
	trap 'rm -rf "$scratch"' EXIT
	local root=$scratch/root
	debootstrap --variant=minbase --include="$packages" "$suite" "$root" "$mirror" >"$scratch/log" 2>&1 ||
		{ tail -20 "$scratch/log"; fail "debootstrap $suite from $mirror"; }
	rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* \
		"$root"/usr/share/{doc,man,info,locale}/* "$root"/{dev,proc,sys}/*
	tar --create --directory "$root" . | docker import - "$own_base" >/dev/null
}

# debian_mirror prints where apt finds the release that this machine runs.
debian_mirror() {
	local codename
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	apt-get indextargets --format '$(REPO_URI)' \
		'Created-By: Packages' 'Component: main' "Release: $codename" | sed -n 1p
}

# build TARGET TAG BASE
build() {
	local log
	log=$(docker build --target "$1" --tag "$2" --build-arg BASE="$3" --file cmd/drover-worker/Dockerfile . 2>&1) ||
		fail "$log"
	echo "image: $2 from $3"
}

fail() {
	echo "image: $1" >&2
	exit 1
}

main

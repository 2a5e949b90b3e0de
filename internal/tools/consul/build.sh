#!/bin/sh
# Provides a real Consul for the tests: the one on PATH, or else build/bin/consul, built here once from source.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
binary=$(cd "$here/../../.." && pwd)/build/bin/consul

if found=$(command -v consul); then
	echo "consul: $found"
	exit 0
fi
if [ ! -x "$binary" ]; then
	mkdir -p "$(dirname "$binary")"
	cd "$here"
	version=$(go list -m -f '{{.Version}}' github.com/hashicorp/consul)
	go build -o "$binary" -ldflags "-X github.com/hashicorp/consul/version.GitDescribe=$version" github.com/hashicorp/consul
fi
echo "consul: $binary"

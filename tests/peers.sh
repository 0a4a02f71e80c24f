#!/usr/bin/env bash
# Builds the clients and servers that lamina's tests talk to and Debian has not (or only old), from the Go module
# proxy at pinned versions, into DIRECTORY/bin.
#
#   tests/peers.sh DIRECTORY [NAME...]     NAME: see ALL below; none = all
#
# What is there at its pinned version is left alone. Needs Go. A build that fails is named with the end of its log,
# the others are built all the same, and the exit code is 1.
set -euo pipefail

ALL=(conformance crane regctl oras registry buildkitd buildctl oracle versitygw minio)
conformance=github.com/opencontainers/distribution-spec/conformance@v0.0.0-20260831232431-97274622c111
crane=github.com/google/go-containerregistry@v0.22.1
regctl=github.com/regclient/regclient@v0.11.7
oras=oras.land/oras@v1.3.6
registry=github.com/distribution/distribution/v3@v3.1.2
buildkit=github.com/moby/buildkit@v0.34.2
buildkitd=$buildkit
buildctl=$buildkit
# our own program over BuildKit's packages: how it reads Dockerfiles (tests/oracle/main.go)
oracle=$buildkit
# two S3 servers
versitygw=github.com/versity/versitygw@v1.8.0
minio=github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
declare -A package=([versitygw]=./cmd/versitygw [minio]=. [conformance]=. [crane]=./cmd/crane [regctl]=./cmd/regctl [oras]=./cmd/oras [registry]=./cmd/registry
  [buildkitd]=./cmd/buildkitd [buildctl]=./cmd/buildctl [oracle]=./cmd/oracle)
version="-X github.com/moby/buildkit/version.Version=${buildkit#*@}"
declare -A link=([buildkitd]=$version [buildctl]=$version)
declare -A own=([oracle]=$(dirname "$(realpath "$0")")/oracle/main.go)

[ $# -ge 1 ] || { sed -n '2,9p' "$0" >&2; exit 2; }
command -v go >/dev/null || { echo "peers.sh: go is not installed" >&2; exit 1; }
mkdir -p "$1/bin" "$1/stamps"
target=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- "${ALL[@]}"
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false -mod=mod"
failed=0
for name; do
  module=${!name}
  stamp=$module
  if [ -n "${own[$name]:-}" ]; then stamp="$module $(sha256sum <"${own[$name]}")"; fi
  if [ "$(cat "$target/stamps/$name" 2>/dev/null)" = "$stamp" ] && [ -x "$target/bin/$name" ]; then continue; fi
  echo "peers.sh: building $name ($module)" >&2
  if (
    set -e
    # a copy, since `go install` refuses modules with replace directives
    directory=$(cd "$work" && GOFLAGS='' go mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    cp -r "$directory" "$work/$name"
    chmod -R u+w "$work/$name"
    cd "$work/$name"
    if [ -n "${own[$name]:-}" ]; then
      mkdir -p "${package[$name]}"
      cp "${own[$name]}" "${package[$name]}"
    fi
    go build -ldflags "-s -w ${link[$name]:-}" -o "$work/out-$name" "${package[$name]}"
  ) >"$work/$name.log" 2>&1; then
    mv "$work/out-$name" "$target/bin/$name"
    echo "$stamp" >"$target/stamps/$name"
  else
    echo "peers.sh: $name was not built:" >&2
    tail -n 15 "$work/$name.log" >&2
    failed=1
  fi
done
exit $failed

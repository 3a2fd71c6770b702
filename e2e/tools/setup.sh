#!/usr/bin/env bash
# Installs what the tests need and prints the folder that holds it: stock restic (old and new) and MinIO.
# Everything lands in a cache outside the checkout, keyed by what was asked for, so a second run builds nothing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
key=$(cat "$here/minio/go.mod" "$here/minio/go.sum" | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/estiba-e2e/$key
say() { printf '%s\n' "$*" >&2; }

packages=(restic acl attr time openssl make)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    say "installing: ${missing[*]}"
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >&2
fi

mkdir -p "$cache/bin"
if [ ! -x "$cache/bin/minio" ]; then
    say "building MinIO (about two minutes, once)"
    (cd "$here/minio" && CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o "$cache/bin/minio.part" github.com/minio/minio >&2)
    mv "$cache/bin/minio.part" "$cache/bin/minio"
fi

[ -x "$cache/bin/restic-old" ] || ln -sf "$(command -v restic)" "$cache/bin/restic-old"
if [ ! -x "$cache/bin/restic-new" ]; then
    say "unpacking a newer restic"
    apt="$cache/apt"
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    # The machine's own Debian mirror, other suites of it.
    mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null \
        | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1 | tr -d " " || true)
    [ -n "$mirror" ] || { say "no Debian mirror found in /etc/apt"; exit 1; }
    printf 'deb %s trixie main\n' "$mirror" > "$apt/sources.list"
    options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=-" -o "Dir::State::lists=$apt/lists"
        -o "Dir::Cache=$apt" -o "APT::Get::List-Cleanup=0" -o "APT::Sandbox::User=root")
    apt-get "${options[@]}" update -qq >&2
    (cd "$apt" && apt-get "${options[@]}" download -qq restic >&2 && dpkg-deb -x restic_*.deb unpacked)
    mv "$apt/unpacked/usr/bin/restic" "$cache/bin/restic-new"
    rm -rf "$apt"
fi
printf '%s\n' "$cache/bin"

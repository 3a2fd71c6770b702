#!/usr/bin/env bash
# Packs the built programs and the libraries they name as target/estiba-image.tar (docker-archive), with no engine.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/usr/bin" "$root/etc/ssl/certs" "$root/tmp"
for program in mover estiba-controller; do
    strip -o "$root/usr/bin/$program" "target/release/$program"
    ldd "target/release/$program" | grep -oE '/[^ ]+' | while read -r library; do
        install -D "$(readlink -f "$library")" "$root$library"
    done
done
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" 2>/dev/null || true
printf 'nobody:x:65534:65534::/:/none\nroot:x:0:0::/:/none\n' >"$root/etc/passwd"
charts/image.sh "${1:-localhost/estiba:dev}" "$root" target/estiba-image.tar /usr/bin/mover
echo target/estiba-image.tar

#!/usr/bin/env bash
# All tests, in the order in which a failure says most: format and lints, licences, the engine, the program, real servers.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf '\n== %s\n' "$*"; }

step "tools"
ESTIBA_E2E_BIN=$(e2e/tools/setup.sh)
export ESTIBA_E2E_BIN

step "format, lints"
cargo fmt --all --check
cargo clippy --release --locked --workspace --all-targets --features e2e/cluster --quiet -- -D warnings

step "generated files are current"
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
target/release/mover man "$made"
diff -r docs/man "$made" || { echo "docs/man is out of date: run make docs"; exit 1; }
target/release/estiba-controller crds | diff charts/estiba/generated/crds.yaml - || { echo "the definitions are out of date: run make crds"; exit 1; }
"$ESTIBA_E2E_BIN/helm" lint --quiet --strict charts/estiba

step "unit and integration tests"
cargo test --release --locked --workspace --exclude e2e

step "end to end: stock restic, MinIO, faults"
cargo test --release --locked --package e2e --no-fail-fast -- --test-threads=2

step "on a real cluster"
csi_sanity() {
    local place
    place=$(mktemp -d)
    target/release/csi-driver --state "$place/state" --endpoint "$place/csi.sock" --node node-a="$place/node" &
    local driver=$!
    for _ in $(seq 100); do [ -S "$place/csi.sock" ] && break; sleep 0.1; done
    local code=0
    "$ESTIBA_E2E_BIN/csi-sanity" --csi.endpoint "$place/csi.sock" --csi.mountdir "$place/mount" --csi.stagingdir "$place/staging" \
        --ginkgo.succinct || code=$?
    kill "$driver"
    wait "$driver" || true
    rm -rf "$place"
    return "$code"
}
csi_sanity
trap 'rm -rf "$made"; e2e/cluster/cluster.sh down' EXIT
charts/build-image.sh
e2e/cluster/cluster.sh up
e2e/cluster/cluster.sh image target/estiba-image.tar
cargo test --release --locked --package e2e --features cluster --test cluster -- --test-threads=3 --nocapture

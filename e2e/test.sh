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
cargo clippy --release --locked --workspace --all-targets --quiet -- -D warnings

step "generated files are current"
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
target/release/mover man "$made"
diff -r docs/man "$made" || { echo "docs/man is out of date: run make docs"; exit 1; }

step "unit and integration tests"
cargo test --release --locked --workspace --exclude e2e

step "end to end: stock restic, MinIO, faults"
cargo test --release --locked --package e2e --no-fail-fast -- --test-threads=2

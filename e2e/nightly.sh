#!/usr/bin/env bash
# What takes too long for every run: rustic as a third judge of the format (a quarter of an hour to build, once), a prune
# of a million blobs, every decoder fuzzed for a minute; and licences, from the whole tree of dependencies.
set -euo pipefail
cd "$(dirname "$0")/.."
RUSTIC=0.11.4
ESTIBA_E2E_BIN=$(e2e/tools/setup.sh)
export ESTIBA_E2E_BIN
cache=${XDG_CACHE_HOME:-$HOME/.cache}/estiba-e2e/rustic-$RUSTIC
[ -x "$cache/bin/rustic" ] || cargo install --locked rustic-rs --version "$RUSTIC" --no-default-features --root "$cache"
ln -sf "$cache/bin/rustic" "$ESTIBA_E2E_BIN/rustic"
cargo test --release --locked --package e2e --test rustic --test memory -- --ignored
command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
cargo deny --all-features check licenses bans sources
repository/fuzz/run.sh 60

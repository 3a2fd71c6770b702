#!/usr/bin/env bash
# Runs every fuzz target for so many seconds (60 if not said). Needs a nightly compiler; installs cargo-fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
cargo +nightly fuzz --version > /dev/null 2>&1 || cargo install --locked cargo-fuzz
for target in tree pack json sealed; do
    echo "== $target, $seconds s"
    cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048
done

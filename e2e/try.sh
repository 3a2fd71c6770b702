#!/usr/bin/env bash
# Shows what mover does, on a real directory.
set -euo pipefail
source=$(cd "$1" && pwd)
mover=$(cd "$(dirname "$0")/.." && pwd)/target/release/mover
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export MOVER_REPOSITORY=$place/repository MOVER_PASSWORD=try
bold=$(tput bold 2>/dev/null || true); green=$(tput setaf 2 2>/dev/null || true); plain=$(tput sgr0 2>/dev/null || true)

run() {
    printf '\n%s$ mover %s%s\n' "$bold" "$*" "$plain"
    "$mover" "$@"
}

# The first backup reads everything; build results would be most of a checkout of this project.
run init
run backup "$source" --exclude "$source/target"
run backup "$source" --exclude "$source/target"
run snapshots
run restore latest "$place/restored" --verify
run check --read-data

printf '\n%s$ diff --recursive SOURCE RESTORED%s\n' "$bold" "$plain"
if diff --recursive --no-dereference --exclude=target "$source" "$place/restored"; then
    printf '%sidentical%s: %s of %s, in a repository of %s\n' "$green" "$plain" \
        "$(find "$place/restored" -type f | wc -l) files" "$source" "$(du -sh "$MOVER_REPOSITORY" | cut -f1)"
else
    echo "the restored directory differs from the source (did something write to it meanwhile?)"; exit 1
fi
command -v restic >/dev/null && printf '\nStock restic reads it too:\n%s' "$(RESTIC_PASSWORD=try restic --no-cache -q -r "$MOVER_REPOSITORY" snapshots)"
echo

#!/usr/bin/env bash
# mover and stock restic on the same data, in turn, in one run: first backup, re-read, restore of random data, again with one MiB
# changed in what was restored, dump; many small files, and their dump as an archive. Figures are medians of RUNS; every time includes what it takes for the data to be on disk (sync of the file system).
set -euo pipefail
cd "$(dirname "$0")/../.."
runs=${RUNS:-3}
mebibytes=${MIB:-2048}
files=${FILES:-100000}
bin=$(e2e/tools/setup.sh)
place=$(mktemp -d "${BENCH_DIR:-/var/tmp}/estiba-bench-XXXXXX")
trap 'rm -rf "$place"' EXIT
export MOVER_PASSWORD=bench RESTIC_PASSWORD=bench

mkdir -p "$place/random" "$place/many"
head -c "${mebibytes}M" /dev/urandom > "$place/random/file"
python3 - "$place/many" "$files" <<'P'
import os, sys
for i in range(int(sys.argv[2])):
    folder = f"{sys.argv[1]}/{i // 500:04d}"
    if i % 500 == 0: os.makedirs(folder)
    with open(f"{folder}/file-{i:06d}", "w") as file: file.write(f"content of file {i}\n" * (i % 40 + 1))
P
sync

mover() { target/release/mover -q -r "$place/mover" "$@"; }
restic() { "$bin/restic-new" -q --no-cache -r "$place/restic" "$@" > /dev/null; }
# timed NAME COMMAND..: appends the seconds of one run to a file of that name.
timed() {
    local name=$1; shift
    sync
    local start end
    start=$(date +%s.%N)
    "$@"
    sync -f "$place"
    end=$(date +%s.%N)
    echo "$end - $start" | bc >> "$place/$name.seconds"
}
median() { sort -n "$1" | awk '{a[NR]=$1} END {print a[int((NR+1)/2)]}'; }

for _ in $(seq "$runs"); do
    for tool in mover restic; do
        rm -rf "$place/$tool" "$place/out"
        $tool init
        restore() { if [ $tool = mover ]; then mover restore latest "$place/out" "$@"; else restic restore latest --target "$place/out" "$@"; fi; }
        # One MiB in the middle of what was restored, with a new time.
        change() { head -c 1M /dev/urandom | dd of="$(find "$place/out" -name file)" bs=1M seek=$((mebibytes / 2)) conv=notrunc status=none; }
        again() { if [ $tool = mover ]; then mover backup --parent none "$place/random"; else restic backup --force "$place/random"; fi; }
        timed "random first.$tool" $tool backup "$place/random"
        timed "random re-read.$tool" again
        timed "random restore.$tool" restore
        change
        timed "random in place.$tool" restore --overwrite always
        timed "random dump.$tool" $tool dump latest "$place/random/file" > /dev/null
        rm -rf "$place/$tool" "$place/out"
        $tool init
        timed "files first.$tool" $tool backup "$place/many"
        timed "files unchanged.$tool" $tool backup "$place/many"
        timed "files restore.$tool" restore
        timed "files dump.$tool" $tool dump latest "$place/many" > /dev/null
    done
done

printf '%s cores, %s, %s MiB of random data, %s small files, medians of %s\n\n' "$(nproc)" "$("$bin/restic-new" version | cut -d' ' -f1,2)" "$mebibytes" "$files" "$runs"
printf '%-18s %10s %10s %8s\n' case mover restic ratio
for case in "random first" "random re-read" "random restore" "random in place" "random dump" "files first" "files unchanged" "files restore" "files dump"; do
    ours=$(median "$place/$case.mover.seconds"); theirs=$(median "$place/$case.restic.seconds")
    printf '%-18s %8.2f s %8.2f s %7.2fx\n' "$case" "$ours" "$theirs" "$(echo "$theirs / $ours" | bc -l)"
done

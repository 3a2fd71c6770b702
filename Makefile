# Two commands do everything: `make try` shows what mover does, `make test` runs all tests.
DIR ?= .

.PHONY: build try test docs bench fuzz nightly

# Leaves target/release/mover.
build:
	cargo build --release --locked --package mover

# Backs up DIR into a local repository, again, restores it, compares.
try: build
	@e2e/try.sh "$(DIR)"

# Installs and builds what the tests need, then runs all of them.
test: build
	@e2e/test.sh

# Makes the manual pages from the arguments.
docs: build
	@rm -rf docs/man && target/release/mover man docs/man

# Compares with stock restic in one run.
bench: build
	@e2e/bench/bench.sh

# Every decoder, a minute each.
fuzz:
	@repository/fuzz/run.sh 60

# What takes too long for every run: rustic as a judge, and the fuzzing.
nightly: build
	@e2e/nightly.sh

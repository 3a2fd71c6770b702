# Two commands do everything: `make try` shows what mover does, `make test` runs all tests.
DIR ?= .

.PHONY: build programs try test docs crds image cluster cluster-down bench bench-gate soak model fuzz nightly

# Leaves target/release/mover.
build:
	cargo build --release --locked --package mover

# Backs up DIR into a local repository, again, restores it, compares.
try: build
	@e2e/try.sh "$(DIR)"

# All that is tested: mover, the controller, the test CSI driver.
programs:
	cargo build --release --locked --workspace --bins

# Installs and builds what the tests need, then runs all of them.
test: programs
	@e2e/test.sh

# Makes the manual pages from the arguments.
docs: build
	@rm -rf docs/man && target/release/mover man docs/man

# Makes the custom resource definitions from the Rust types.
crds: programs
	target/release/estiba-controller crds > charts/estiba/generated/crds.yaml

# Packs mover and controller as target/estiba-image.tar, with no engine.
image: programs
	@charts/build-image.sh

# A Kubernetes of two nodes on this machine, as root, with the image known to it; and its end.
cluster: image
	@e2e/cluster/cluster.sh up && e2e/cluster/cluster.sh image target/estiba-image.tar

cluster-down:
	@e2e/cluster/cluster.sh down

# Compares with stock restic in one run.
bench: build
	@e2e/bench/bench.sh

# How soon a free slot is used again, on the cluster of `make cluster`.
bench-gate:
	ESTIBA_E2E_BIN=$$(e2e/tools/setup.sh) cargo test --release --locked --package e2e --features cluster --test cluster -- --ignored --nocapture fifty

# Many clients at once do what comes, for SECONDS, by SEED.
SECONDS ?= 600
SEED ?= 1
soak: build
	ESTIBA_E2E_BIN=$$(e2e/tools/setup.sh) ESTIBA_SOAK_SECONDS=$(SECONDS) ESTIBA_SOAK_SEED=$(SEED) \
		cargo test --release --locked --package e2e --test soak -- --nocapture

# All configurations of the model of locks and pruning, and each rule left out: minutes, 2 GB. The tests run a part.
model:
	cargo run --release --locked --package prune-model

# Every decoder, a minute each.
fuzz:
	@repository/fuzz/run.sh 60

# What takes too long for every run: rustic as a judge, and the fuzzing.
nightly: build
	@e2e/nightly.sh

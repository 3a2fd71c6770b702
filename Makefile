# Two commands do everything: `make try` shows what mover does, `make test` runs all tests.
.PHONY: build try test

build:
	cargo build --release --locked --package mover

test: build
	cargo test --release --locked --workspace --features repository/test-support

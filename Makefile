# `make test` is the gate: everything that must hold before a change lands. `make help` lists the rest.

.PHONY: help test tools

help: ## What can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

tools: ## Installs the test runner when it is missing
	@command -v cargo-nextest >/dev/null || cargo install --locked cargo-nextest

test: tools ## Formatting, lints, docs, every test
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
	cargo test --workspace --doc
	cargo nextest run --workspace

# `make test` is the gate: everything that must hold before a change lands. It needs a stable Rust toolchain, a C compiler and
# git, and installs what else it uses. `make help` lists the rest.

.PHONY: help test test-extended fuzz compare
.NOTPARALLEL:

# RocksDB is a feature, because a fresh machine lacks its library, and HDFS, because hardly anybody has one: everything is tested
# without them, and with them what they change.
FEATURES := -p storage -p jigap --features storage/rocksdb,jigap/rocksdb,storage/hdfs,jigap/hdfs
FUZZ_TARGETS := $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
FUZZ_SECONDS ?= 60
# Of `make compare`.
PROFILE ?= release
PROFILE_DIRECTORY = $(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
OUT ?= docs/compare
ACCOUNTS ?= 10000
SECONDS ?= 10
KILLS ?= 2
HOST := $(shell rustc --print host-tuple)
# What `cargo fuzz` passes, but for the sanitizers, which only a nightly toolchain has. The targets are safe code for the most
# part; overflows and failed assertions are found all the same.
FUZZ_FLAGS := --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1
# Buffers of some MiB, taken and given back for every input, stay with the process: twenty times as many inputs a second.
FUZZ_MEMORY := MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=1073741824

help: ## What can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

# One profile throughout, so that dependencies are compiled once for the tests and checked once for lints and docs. The run with
# the most tests comes last: its summary is the last line. cargo-deny's advisories are left out, because they need a database from
# the network, and a new advisory would turn a gate red that was green.
test: ## The gate: formatting, lints, docs, licences, every test (25 minutes at most on 2 cores, from nothing)
	cargo fmt --all --check
	.ci/tools gate deny rocksdb s3 hdfs servers faketime
	cargo deny --log-level error check licenses bans sources
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
	cargo test --workspace --doc --locked
	cargo clippy $(FEATURES) --all-targets --locked -- -D warnings
	cargo nextest run $(FEATURES) --locked -E 'test(rocksdb) | test(state_store) | test(hdfs)'
	cargo nextest run --workspace --locked

test-extended: ## Longer campaigns of the random tests, optimised
	.ci/tools gate rocksdb servers
	JIGAP_CRASH_POINTS=1000 cargo nextest run --profile extended --release --locked -p storage --features rocksdb --test store -E 'test(crash)'
	TEST_CASES=50 cargo nextest run --profile extended --release --locked -p ledger
	TEST_CASES=50 cargo nextest run --profile extended --release --locked -p coordinator
	TEST_CASES=50 cargo nextest run --profile extended --release --locked -p jigap --test damaged_input
	JIGAP_ARCHIVE_KILLS=500 cargo nextest run --profile extended --release --locked -p shards --test archive
	JIGAP_CRASH_POINTS=2000 cargo nextest run --profile extended --release --locked -p shards --test crash
	JIGAP_SQL_STRIDE=1 JIGAP_SQL_ALL_KILLS=1 cargo nextest run --profile extended --release --locked -p distributed --test sql

# Optimised, because it measures. It runs alone on the machine, or it tells of whatever else runs.
compare: ## Every architecture under the same load and faults, on real servers on loopback, into docs/compare (10 minutes at most, built before)
	.ci/tools servers
	cargo build --profile $(PROFILE) --locked -p jigap --bin jigap --example compare
	@target/$(PROFILE_DIRECTORY)/examples/compare --jigap target/$(PROFILE_DIRECTORY)/jigap --out $(OUT) \
		--accounts $(ACCOUNTS) --seconds $(SECONDS) --kills $(KILLS)

fuzz: ## Every fuzz target for FUZZ_SECONDS (60 unless given), guided by coverage; findings stay in fuzz/artifacts
	.ci/tools fuzz
	RUSTFLAGS="$(FUZZ_FLAGS)" cargo build --manifest-path fuzz/Cargo.toml --release --bins --target $(HOST)
	@set -e; for target in $(FUZZ_TARGETS); do \
		found=fuzz/artifacts/$$target; \
		mkdir -p fuzz/corpus/$$target $$found; \
		echo "== $$target for $(FUZZ_SECONDS) s"; \
		FUZZ_SEEDS=fuzz/corpus/$$target $(FUZZ_MEMORY) fuzz/target/$(HOST)/release/$$target -max_total_time=$(FUZZ_SECONDS) -timeout=10 \
			-rss_limit_mb=2048 -max_len=20000 -print_final_stats=1 -artifact_prefix=$$found/ fuzz/corpus/$$target \
			> $$found/log 2>&1 || { tail -n 50 $$found/log; exit 1; }; \
		grep --extended-regexp 'executed_units|new_units|DONE' $$found/log; \
	done

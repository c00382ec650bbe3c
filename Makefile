# Everything that a developer and CI do. `make help` lists it.

TRANSPORT ?= memory
TRANSPORTS := memory redis nats postgres kafka
# Before anything is built, which takes minutes. Several names are none of them.
CHECK_TRANSPORT = $(if $(filter $(TRANSPORTS),$(subst $() ,-,$(strip $(TRANSPORT)))),,$(error TRANSPORT=$(TRANSPORT) is none of $(TRANSPORTS)))
SERVICES := scripts/services.sh
# In-process the demo builds no C code, so the brokers' clients and their TLS stay out.
DEMO_FEATURES := $(if $(filter memory,$(TRANSPORT)),--no-default-features,$(if $(filter kafka,$(TRANSPORT)),--features kafka,))
PAGE_FEATURES := $(DEMO_FEATURES)$(if $(filter memory,$(TRANSPORT)), --features page,)

INSTRUCTIONS := cargo run --quiet --profile instructions -p hydratecache-instructions --
BASELINE := benches/instructions/baseline.txt

MSRV := $(shell sed -n 's/^rust-version = "\(.*\)"/\1.0/p' Cargo.toml)
# What users can switch on: `default` is a set of these, and `broker` what some of them share.
FEATURE_SETS := cargo hack clippy --locked --workspace --ignore-private --exclude-features default,broker

.DEFAULT_GOAL := help
.PHONY: help demo example page test check bench bench-micro benchmarks peers instructions instructions-baseline guide soak reconnect sim sim-bugs pgbench study audit fuzz package features msrv semver services-up services-down services-status

help: ## Lists these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 18

demo: ## Shows a fleet converge (TRANSPORT=memory, redis, nats, postgres or kafka)
	$(CHECK_TRANSPORT)cargo build --release -p hydratecache-cli $(DEMO_FEATURES)
	cargo run --quiet --release -p hydratecache-cli $(DEMO_FEATURES) -- demo --transport $(TRANSPORT)

page: ## Shows a fleet on a page in the browser, to cut, slow and kill (TRANSPORT as for demo)
	$(CHECK_TRANSPORT)cargo build --release -p hydratecache-cli $(PAGE_FEATURES)
	cargo run --quiet --release -p hydratecache-cli $(PAGE_FEATURES) -- demo --page --transport $(TRANSPORT)

example: ## Runs one of the programs in examples/, with the broker that it needs (EXAMPLE=axum-moka)
	$(if $(filter command,$(origin TRANSPORT)),$(error each example has a broker of its own: make example EXAMPLE=axum-moka))scripts/example.sh $(or $(EXAMPLE),axum-moka)

test: ## Starts what it needs and runs every test
	$(SERVICES) install redis nats postgres kafka
	scripts/tools.sh psql:postgresql-client pgbouncer:pgbouncer chromedriver:chromium-driver
	cargo test --workspace --all-features
	scripts/golden/check.sh
	scripts/services/test.sh

check: ## Format, lints, docs, licences and the patches of sim/bugs, with warnings denied
	cargo fmt --all --check
	scripts/sim.sh fits
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	cargo check -p hydratecache --no-default-features
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps
	cargo deny --all-features check bans licenses sources

guide: ## Renders docs/guide as a book in target/guide
	scripts/guide.sh

bench: ## Prints every figure beside the raw client's (BENCH="--only redis_publish_512")
	cargo build --quiet --release -p hydratecache-cli --features kafka
	cargo build --quiet --release -p hydratecache-bench
	cargo run --quiet --release -p hydratecache-bench --bin bench -- $(BENCH)

benchmarks: ## Adds every figure to docs/benchmarks, with plots (some seven minutes; BENCH="--only NAME" for one)
	$(SERVICES) install redis nats postgres kafka
	cargo build --quiet --release -p hydratecache-cli --features kafka
	cargo build --quiet --release -p hydratecache-bench
	cargo run --quiet --release -p hydratecache-bench --bin bench -- --write docs/benchmarks $(BENCH)

peers: ## Compares with multi-tier-cache, hydracache and Redis client-side caching, on record in docs/benchmarks (PEERS="--rounds 9")
	$(SERVICES) install redis
	cargo run --quiet --release --locked --manifest-path benches/peers/Cargo.toml -- --write docs/benchmarks $(PEERS)

bench-micro: ## Times envelope, codec, tracker and caches with criterion (MICRO=decode for those with that in their names)
	cargo bench --quiet -p hydratecache-bench -- $(MICRO)

instructions: ## Counts the instructions of the hot paths, and fails unless each is within 3 % of the baseline
	scripts/tools.sh valgrind:valgrind
	$(INSTRUCTIONS) check $(BASELINE)

instructions-baseline: ## Counts them, and makes that the baseline
	scripts/tools.sh valgrind:valgrind
	$(INSTRUCTIONS) write $(BASELINE)

soak: ## Kills and flaps at random, with an oracle for silent losses (SOAK="--seconds 600 --transport redis")
	$(SERVICES) install redis nats postgres kafka
	cargo run --quiet --release -p hydratecache-soak --bin soak -- $(SOAK)

reconnect: ## Kills the broker of a thousand subscribers and prints how soon they are ready again (RECONNECT="--transport redis")
	$(SERVICES) install redis nats postgres kafka
	cargo run --quiet --release -p hydratecache-soak --bin reconnect -- $(RECONNECT)

sim: ## Simulates seeds under virtual time, each with faults of its own (SEEDS=10000, or SEED=7 to replay one)
	scripts/sim.sh run $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),10000))

sim-bugs: ## Checks that the simulation finds each of the bugs in sim/bugs
	scripts/sim.sh bugs

pgbench: ## Runs pgbench against replicas whose connections are killed, and compares every row
	scripts/tools.sh pgbench:postgresql-contrib
	$(SERVICES) install postgres
	cargo run --quiet --release -p hydratecache-postgres --example pgbench

study: ## Compares three ways to keep a cache under pgbench, with a table and a plot in docs/benchmarks
	scripts/tools.sh pgbench:postgresql-contrib
	$(SERVICES) install postgres
	cargo run --quiet --release -p hydratecache-postgres --example study -- docs/benchmarks

audit: ## Known vulnerabilities of the dependencies (reads an advisory database from the net)
	cargo deny --all-features check advisories

fuzz: ## Fuzzes the decoders for a minute each (SECONDS=60)
	scripts/golden/fuzz.sh $(or $(SECONDS),60)

package: ## Packages every crate of the last commit and looks into the packages (VERIFY=1 builds them too)
	scripts/release.py package $(if $(VERIFY),--verify)

features: ## Lints every pair of features, first as users build the crates and then with their tests
	@cargo hack --version >/dev/null 2>&1 || { echo "make features: cargo-hack is missing: cargo install cargo-hack --locked" >&2; exit 1; }
	$(FEATURE_SETS) --feature-powerset --depth 2 -- -D warnings
	$(FEATURE_SETS) --each-feature --all-targets -- -D warnings

msrv: ## Checks that everything builds with the oldest Rust that Cargo.toml promises
	@rustup toolchain list | grep -q '^$(MSRV)-' || { echo "make msrv: Rust $(MSRV) is missing: rustup toolchain install $(MSRV) --profile minimal" >&2; exit 1; }
	cargo +$(MSRV) check --locked --workspace --all-features

semver: ## Compares every public API with that of the crate's latest release
	scripts/release.py semver

services-up: ## Starts Redis, NATS, PostgreSQL and Kafka, with Docker or without
	$(SERVICES) up
	@$(SERVICES) env

services-down: ## Stops them
	$(SERVICES) down

services-status: ## Says which are up
	$(SERVICES) status

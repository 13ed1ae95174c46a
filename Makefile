# `make help` lists what can be made. Nothing here needs more than Rust, a C compiler and a network; what else a target needs, it installs.

CACHE_HOME := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)
FOREBAY_CACHE := $(CACHE_HOME)/forebay
DENY_VERSION := 0.20.2
DENY := $(FOREBAY_CACHE)/tools/cargo-deny-$(DENY_VERSION)/bin/cargo-deny
FUZZ_VERSION := 0.13.2
CARGO_FUZZ := $(FOREBAY_CACHE)/tools/cargo-fuzz-$(FUZZ_VERSION)/bin/cargo-fuzz
# Release builds live outside the clone, one folder for each compiler. Everything else that decides their bytes (sources, locked versions,
# features, profile, flags) is in cargo's own fingerprints, on a hit as on a miss: a new dependency builds itself and what uses it, not all.
BUILD_KEY := $(shell rustc --version --verbose 2>/dev/null | sha256sum | cut -c1-16)
RELEASE_TARGET ?= $(CACHE_HOME)/forebay-build/$(BUILD_KEY)
export FOREBAY_RELEASE := $(RELEASE_TARGET)/release
CARGO ?= cargo
# Runs a command beside an API server of its own. Tests take it from KUBECONFIG_ENVTEST, never from KUBECONFIG: that may be somebody's cluster.
ENVTEST := e2e/cluster/envtest.sh run sh -c 'KUBECONFIG_ENVTEST=$$KUBECONFIG exec "$$@"' sh

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## debug build of everything, tests too: what they need of other crates is built once
	$(CARGO) build --workspace --all-targets --locked

.PHONY: release
release: ## release build of the node, the bench and the examples that it measures by, cached outside the clone
	CARGO_TARGET_DIR=$(RELEASE_TARGET) $(CARGO) build --release --locked -p forebay-node -p forebay-bench -p forebay-manifest -p forebay-store -p forebay-peer --bins --examples

.PHONY: plugin
plugin: ## release build of kubectl-forebay, kubectl's plugin; prints where it is
	CARGO_TARGET_DIR=$(RELEASE_TARGET) $(CARGO) build --release --locked -p forebay-plugin --bins
	@echo $(FOREBAY_RELEASE)/kubectl-forebay

.PHONY: test
test: lint unit readers pjdfstest ## everything a change must pass: fmt, clippy, cargo deny, all tests, tidy, real readers

.PHONY: unit
unit: build ## the tests of every crate, tidy among them, beside a real API server and with csi-sanity
	folder=$$(e2e/cluster/build.sh csi-sanity) && FOREBAY_CSI_SANITY=$$folder/csi-sanity $(ENVTEST) $(CARGO) test --workspace --locked

.PHONY: crds
crds: ## write crds/ and docs/crds.md from the types in api/
	$(CARGO) run --locked -p forebay-api --bin forebay-crdgen -- .

.PHONY: test-crds
test-crds: ## the kinds on a real API server: what it takes, what it refuses and what it says
	$(ENVTEST) $(CARGO) test --locked -p forebay-api --test it apiserver

.PHONY: lint
lint: fmt-check deny ## formatter, clippy, dependency rules
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

.PHONY: chart
chart: ## the chart: its definitions are those of crds/, it lints, and renders what charts/golden has
	charts/check.sh

.PHONY: fmt
fmt: ## format the sources
	$(CARGO) fmt --all

.PHONY: fmt-check
fmt-check: ## fail if a source isn't formatted
	$(CARGO) fmt --all --check

.PHONY: deny
deny: $(DENY) ## dependency arrows, licences, origins (deny.toml); needs no network
	@$(CARGO) fetch --locked --quiet
	$(DENY) --locked --offline check --hide-inclusion-graph bans licenses sources

$(DENY):
	$(CARGO) install --locked cargo-deny@$(DENY_VERSION) --root $(FOREBAY_CACHE)/tools/cargo-deny-$(DENY_VERSION)

FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: $(CARGO_FUZZ) ## look for input that breaks a decoder, FUZZ_SECONDS=60 for each; what was found goes on from run to run
	FUZZ_SECONDS=$(FUZZ_SECONDS) fuzz/run.sh $(CARGO_FUZZ) $(FOREBAY_CACHE)/fuzz $(RELEASE_TARGET)-fuzz

$(CARGO_FUZZ):
	$(CARGO) install --locked cargo-fuzz@$(FUZZ_VERSION) --root $(FOREBAY_CACHE)/tools/cargo-fuzz-$(FUZZ_VERSION)

BENCH_FOLDER ?= $(CACHE_HOME)/forebay-bench
ROWS ?=
# With SHORT=1 figures don't count: the debug build is there already, and the report goes beside the data, not into the docs.
BENCH_PROGRAMS := $(if $(SHORT),$(CURDIR)/target/debug,$(FOREBAY_RELEASE))
.PHONY: bench
bench: $(if $(SHORT),build,release) ## measure against a local folder; ROWS="steady walk" chooses rows, SHORT=1 is small and only checks that ratios come out
	$(BENCH_PROGRAMS)/forebay-bench suite --node $(BENCH_PROGRAMS)/forebay-node \
		$(if $(SHORT),--short --clean --folder $(BENCH_FOLDER)-short --report $(BENCH_FOLDER)-short/report,--folder $(BENCH_FOLDER) --report docs) $(ROWS)

SIMULATED_RUNS ?= 100
.PHONY: simulate
simulate: ## many nodes of one cache, simulated: whole nodes under faults, then placement and copies of 100 million blocks over 1,000; see docs/simulation.md
	CARGO_TARGET_DIR=$(RELEASE_TARGET) $(CARGO) build --release --locked -p forebay-sim --bins
	$(FOREBAY_RELEASE)/forebay-sim cluster --seed 1 --runs $(SIMULATED_RUNS)
	$(FOREBAY_RELEASE)/forebay-sim cluster --seed 1001 --runs 2 --nodes 100 --files 4000 --reads 400 --faults 60
	$(FOREBAY_RELEASE)/forebay-sim cluster --seed 2001 --nodes 1000 --files 20000 --reads 60 --faults 20
	$(FOREBAY_RELEASE)/forebay-sim scale --nodes 1000 --blocks 100000000

.PHONY: demo
demo: ## real images from an S3 server on loopback through a mount, cold and warm, every byte compared
	bench/demo/run.sh

.PHONY: demo-stop
demo-stop: ## stop what `make demo` left running
	bench/demo/run.sh stop

.PHONY: cluster-demo
cluster-demo: ## several nodes with one cache on this machine, a namespace each: what each reads from where, a node killed, one cut off
	bench/cluster/run.sh

NODES ?= 3
IMAGES ?= forebay-node forebay-csi forebay-operator
.PHONY: images
images: ## container images of Forebay's programs as OCI archives, cached outside the clone; prints where. ARCH=arm64 or amd64: another machine's
ifeq ($(ARCH),)
	CARGO_TARGET_DIR=$(RELEASE_TARGET) $(CARGO) build --release --locked --bins $(addprefix -p ,$(IMAGES))
	e2e/images/build.sh $(IMAGES)
else
	@folder=$$(e2e/images/cross.sh $(ARCH) $(RELEASE_TARGET) $(IMAGES)) && ARCH=$(ARCH) FOREBAY_RELEASE=$$folder e2e/images/build.sh $(IMAGES)
endif

.PHONY: images-check
images-check: ## build the images, for ARCH=arm64 or amd64 if it is said, and start the program of each as its image has it
	e2e/images/check.sh $(or $(ARCH),$$(dpkg --print-architecture)) $$($(MAKE) --no-print-directory -s images)

.PHONY: cluster-up
cluster-up: images ## a real Kubernetes on this machine, as root, with Forebay's images on its NODES=3; see e2e/README.md
	@archives=$$(e2e/images/build.sh $(IMAGES)) && e2e/cluster/up.sh $(NODES) $$archives

.PHONY: pod-demo
pod-demo: release images ## from nothing to a pod that reads, as root: a Kubernetes on this machine, an S3 server, the chart, a Dataset, every byte compared
	e2e/demo.sh

.PHONY: pod-demo-stop
pod-demo-stop: ## end what `make pod-demo` left running
	e2e/demo.sh stop

.PHONY: e2e
e2e: build ## the whole product on a real cluster, as root; KEEP=1 leaves it up, KUBECONFIG=... takes that one
	FOREBAY_RELEASE=$(CURDIR)/target/debug e2e/run.sh

.PHONY: bench-cluster
bench-cluster: release ## what Forebay costs in a cluster, as root: operator at scale, from apply to the first byte, memory at rest, reads in a pod
	CARGO_TARGET_DIR=$(RELEASE_TARGET) $(CARGO) build --release --locked -p forebay-operator -p forebay-csi --bins --examples
	e2e/bench.sh

.PHONY: cluster-down
cluster-down: ## end the cluster and remove all it left
	@e2e/cluster/down.sh

.PHONY: torture
torture: ## the long forms of the tests: hours, not minutes
	FOREBAY_TORTURE=1 $(CARGO) test --workspace --locked --release --no-fail-fast -- --nocapture
	FOREBAY_TORTURE=1 $(MAKE) readers
	$(MAKE) fuzz

# Both mount, and so need root. FOREBAY_TORTURE=1 adds PyTorch and WebDataset, more data and every serving mode.
.PHONY: readers
readers: build ## libraries that people train with, on a real mount as nobody, compared with a local copy
	bench/readers/readers.sh

.PHONY: pjdfstest
pjdfstest: build ## the part of pjdfstest that applies to a read-only mount
	bench/readers/pjdfstest.sh

.PHONY: tidy
tidy: ## the checks of our own: rooms' words, lengths, links, rules and their tests
	$(CARGO) test --locked -p forebay-bench --test it tidy -- --nocapture

.PHONY: hooks
hooks: ## use the repository's git hooks
	git config core.hooksPath .githooks

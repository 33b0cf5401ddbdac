# kvd needs Go (see go.mod) and gcc (for the race detector), nothing else: every other tool is a Go module, pinned in
# tools/go.mod and built into .tools/bin.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build
MAKEFLAGS += --no-print-directory

MODULE  := github.com/kvd-io/kvd
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo v0.0.0-dev)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -X $(MODULE)/version.Version=$(VERSION) -X $(MODULE)/version.Commit=$(COMMIT)
# The commit is stamped above; Go's own stamp would need git to trust the directory's owner.
GOBUILD := go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'

TOOLS   := .tools/bin
FUZZTIME ?= 10s
# Passed on to the demo and to the benchmarks, e.g. make bench ARGS='-members 3 -pairs 5'.
ARGS    ?=

.PHONY: help
help: ## Show the targets.
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: build
build: ## Build bin/kvd and bin/kvctl.
	$(GOBUILD) -o bin/ ./cmd/kvd ./cmd/kvctl

.PHONY: run
run: build ## Build and start a single member on 127.0.0.1:2379, data in ./default.kvd.
	exec bin/kvd --data-dir default.kvd \
	  --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
	  --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
	  --initial-cluster default=http://127.0.0.1:2380 $(ARGS)

.PHONY: demo
demo: build ## Three members, real data, splits under load, one kill -9; checks what it shows.
	go run -buildvcs=false ./tests/demo $(ARGS)

.PHONY: bench
bench: build ## Compare with etcd and with an empty gRPC server on this machine.
	cd tests/bench && go run -buildvcs=false . $(ARGS)

.PHONY: bench-snapshot
bench-snapshot: build ## Compare saving and restoring snapshots with etcd, e.g. make bench-snapshot ARGS='-snapshot-keys 100000 -pairs 3'.
	cd tests/bench && go run -buildvcs=false . -cells snapshot -members 1 -shards 1,8 -seconds 5 $(ARGS)

.PHONY: bench-leases
bench-leases: build ## Ten thousand leases that end at once: none early, none much late, what writes see of it.
	go run -buildvcs=false ./tests/leases $(ARGS)

.PHONY: test-etcd
test-etcd: build ## etcd's own tests against kvd, e.g. make test-etcd ARGS='-mode split -run TestKV'.
	cd tests/etcd && go run -buildvcs=false . $(ARGS)

.PHONY: test-etcd-gate
test-etcd-gate: build ## etcd's own tests within about a quarter of an hour, for slow machines too.
	cd tests/etcd && E2E_TEST_MINIMAL=true go run -buildvcs=false . -mode one -tries 4 -lenient -budget 8m
	cd tests/etcd && E2E_TEST_MINIMAL=true go run -buildvcs=false . -mode split -half -tries 4 -lenient -budget 5m

# Tests of whole clusters run the binaries of `make build`.
CLUSTER_ENV := KVD_TEST_BIN=$(CURDIR)/bin/kvd KVD_TEST_KVCTL=$(CURDIR)/bin/kvctl

.PHONY: test
test: build ## Unit tests with the race detector, then the tests of whole clusters.
	go test -race -timeout 20m $$(go list ./... | grep -vE '^$(MODULE)/(tests/chaos|tests/e2e|internal/lint)')
	cd tests/bench && go test .
	cd tests/etcd && go test .
	cd tests/backup && $(CLUSTER_ENV) go test -count=1 .
	$(CLUSTER_ENV) go test -count=1 -timeout 25m ./tests/e2e/...
	$(CLUSTER_ENV) go test -count=1 -timeout 12m ./tests/chaos

.PHONY: test-race
test-race: ## The tests of whole clusters with members that have the race detector. Slow.
	CGO_ENABLED=1 go build -race -buildvcs=false -ldflags '$(LDFLAGS)' -o .tools/race/ ./cmd/kvd ./cmd/kvctl
	KVD_TEST_BIN=$(CURDIR)/.tools/race/kvd KVD_TEST_KVCTL=$(CURDIR)/.tools/race/kvctl \
	  go test -race -count=1 -timeout 40m ./tests/e2e/...

.PHONY: soak
DURATION ?= 10m
soak: build ## Rounds of faults with fresh seeds for DURATION; make soak ARGS='-seed N -v' does one again.
	go run -buildvcs=false ./tests/soak -duration $(DURATION) $(ARGS)

.PHONY: bystanders
bystanders: build ## What transactions that hang do to everybody else, as ratios.
	go run -buildvcs=false ./tests/bystanders $(ARGS)

.PHONY: sim
sim: ## Play the scheduler and the sequencer with 200 members and 100,000 shards; writes docs/simulation.md.
	cd tests/sim/report && go run -buildvcs=false . $(ARGS)

.PHONY: shards-1000
shards-1000: build ## A thousand shards on three members: start-up, memory, descriptors, idle CPU, and that all works.
	go run -buildvcs=false ./tests/manyshards $(ARGS)

.PHONY: bigstore
bigstore: build ## A store of 5 GiB that the scheduler cuts into shards while it grows and is used; takes up to 40 GB of disk for a quarter of an hour.
	go run -buildvcs=false ./tests/bigstore $(ARGS)

.PHONY: model
model: ## Check the models of tests/model and their mutations; needs spin.
	tests/model/check.sh

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME.
	tools/fuzz.sh $(FUZZTIME)

.PHONY: lint
lint: $(TOOLS)/staticcheck $(TOOLS)/buf ## Formatting, vet, staticcheck, the rules of this repository.
	@unformatted="$$(git ls-files -z --cached --others --exclude-standard -- '*.go' | xargs -0 -r gofmt -l)"; \
	  if [ -n "$$unformatted" ]; then echo "not formatted by gofmt:"; echo "$$unformatted"; exit 1; fi
	cd proto && ../$(TOOLS)/buf lint
	go vet ./...
	cd tests/bench && go vet ./...
	cd tests/etcd && go vet ./...
	cd tests/backup && go vet ./...
	cd tests/sim/report && go vet ./...
	$(TOOLS)/staticcheck ./...
	go test -count=1 ./internal/lint

.PHONY: generate
generate: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc ## Generate Go from proto/, and the page of flags.
	cd proto && ../$(TOOLS)/buf generate
	go test -count=1 ./server/config -run '^TestConfigurationPage$$' -update

.PHONY: tools
tools: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc $(TOOLS)/staticcheck ## Build the pinned tools.

$(TOOLS)/buf: PKG := github.com/bufbuild/buf/cmd/buf
$(TOOLS)/protoc-gen-go: PKG := google.golang.org/protobuf/cmd/protoc-gen-go
$(TOOLS)/protoc-gen-go-grpc: PKG := google.golang.org/grpc/cmd/protoc-gen-go-grpc
$(TOOLS)/staticcheck: PKG := honnef.co/go/tools/cmd/staticcheck

$(TOOLS)/%: tools/go.mod tools/go.sum
	@mkdir -p $(TOOLS)
	go -C tools build -trimpath -buildvcs=false -o ../$@ $(PKG)
	@touch $@

.PHONY: clean
clean: ## Remove what was built. Data directories stay.
	rm -rf bin .tools .bench .demo

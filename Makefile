# SPDX-License-Identifier: Apache-2.0
#
# Needs make, git, gcc and Go; what else a target needs it installs with apt-get when it runs as root, and names otherwise.
# `make` lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The stamp in the binaries comes from the commit and not from the clock, so the same commit gives the same bytes.
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
DATE    := $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(DATE)

# How long each fuzz target runs, and how many kills, restarts and upgrades a soak makes: by a parent that plays service
# manager, and under a real systemd.
FUZZTIME   ?= 20s
SOAK_FUZZ  ?= 10m
SOAK_KILLS ?= 10000
SOAK_RESTARTS ?= 100
SOAK_SYSTEMD_KILLS ?= 300
SOAK_UPGRADES ?= 10
SOAK_BRIDGE_KILLS ?= 2000
BRIDGE_KILLS ?= 100
# Mistakes in the code of the ring, and which: those of a commit are always the same.
MUTANTS ?= 100
SEED ?= $(shell printf %d 0x$$(git rev-parse --short=7 HEAD))

# Pinned: a new release must not turn a green tree red overnight. Run by version, so it never enters go.mod.
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# What `make test` runs. A part joins the list with the change that brings it.
PARTS := unit proof systemd packages recipes bridge

# The tests that boot a systemd are a part of their own, and so are what the packages are made of and the models. The killing parent is too
# slow under the race detector, and the tests of promise 4 compare times and rates, which it distorts.
UNIT_PACKAGES = $$(go list ./... | grep -vE '/(units|packaging|broker/ring/model)(/|$$)')
# Those that measure how late somebody is, or kill by a seed, have the machine for themselves. The others wait for much of their time, and
# share it by two.
ALONE = /(broker|broker/control|broker/crashtest|broker/loop|client)$$
RACE_SKIP     = ^TestPromise4_
RACE_PACKAGES = $$(go list ./client ./broker/... ./internal/... | grep -vE '/(broker/crashtest|broker/ring/model|internal/house)$$')

SCRIPTS = $$(git ls-files -z -- .ci '*.sh' | xargs -0 grep -lE '^\#!.*sh')

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' Makefile

.PHONY: build
build: ## bin/msgmuxd, the broker, and bin/msgmux, the command line
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/ ./cmd/msgmuxd ./cmd/msgmux

.PHONY: build-bridge
build-bridge: ## bin/msgmux-nats, the bridge to NATS JetStream, a module of its own
	cd cmd/msgmux-nats && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o ../../bin/ .

.PHONY: packages
packages: ## .deb and .rpm for amd64 and arm64, build/packages
	rm -rf build/packages
	packaging/build.sh build/packages
	packaging/nats/build.sh build/packages

.PHONY: man
man: ## bring the man pages up to date with --help and docs/protocol.md
	go run ./packaging/generate man

.PHONY: run
run: build ## see it work: a broker in a temporary folder, two sinks, this host's own log lines
	@docs/examples/run.sh

.PHONY: test
test: known-parts $(PARTS:%=test-%) ## all tests, set-up included; MSGMUX_REQUIRE="unit ..." names the parts that must not be skipped

# A part that must not be skipped and does not exist is a mistake, not a success.
.PHONY: known-parts
known-parts:
	@require=$${MSGMUX_REQUIRE:-}; for part in $${require//,/ }; do \
		case " $(PARTS) " in *" $$part "*) ;; *) echo "MSGMUX_REQUIRE names $$part; there is: $(PARTS)" >&2; exit 1;; esac; done

.PHONY: test-unit
test-unit: ## vet, tests, race detector, 20 s of each fuzz target; no root, some twenty minutes on two cores
	@.ci/need unit python3 socat gcc tmux journalctl dbus-daemon dbus-broker || [ $$? = 2 ]
	@command -v promtool >/dev/null || docs/recipes/prepare.sh build/unit prometheus >/dev/null || echo "unit: cannot unpack prometheus" >&2
	go vet ./...
	.ci/again "-count=1 -p 1 -timeout 8m" $$(printf '%s\n' $(UNIT_PACKAGES) | grep -E '$(ALONE)')
	.ci/again "-count=1 -p 2 -timeout 8m" $$(printf '%s\n' $(UNIT_PACKAGES) | grep -vE '$(ALONE)')
	@$(MAKE) --no-print-directory test-race fuzz

.PHONY: test-proof
test-proof: model ## the models, and the broker killed after every store to its memory, every operation broken on purpose too; no root
	go vet -tags ring_watch ./broker/ring/...
	MSGMUX_LIES=20s go test -count=1 -timeout 10m -v -run 'TestPromise12_Lying' ./broker | grep -vE '^ *(===|---)|level='
	go test -count=1 -tags ring_watch -timeout 15m -v -run 'TestEveryKill|TestEveryStoreIsPlayed|TestLedger|TestMisplacedLog|TestPublishing' ./broker/ring ./broker/ring/layout2/writer | grep -vE '^ *(===|---)'
	@$(MAKE) --no-print-directory mistakes

.PHONY: mistakes
mistakes: ## MUTANTS (100) mistakes in the code of the ring, one at a time, chosen by SEED (the commit's): each must be noticed; 0 is all
	MSGMUX_MUTANTS=$(MUTANTS) MSGMUX_SEED=$(SEED) go test -count=1 -tags ring_watch -timeout 0 -v -run TestMistakesAreCaught ./broker/ring | grep -vE '^ *(===|---)'

.PHONY: model
model: ## the models of the crash protocol: every state of those that must hold, and a mistake in each of those that must not
	@.ci/need proof spin gcc || [ $$? = 2 ]
	go test -count=1 -timeout 30m -v ./broker/ring/model | grep -vE '^ *(===|---)'

.PHONY: test-systemd
test-systemd: ## boots Debian's systemd 252 and 257 in containers; root, some minutes
	.ci/again "-count=1 -timeout 35m" ./units/...

.PHONY: test-packages
test-packages: ## builds the packages, installs, upgrades and purges them under load in containers; root, ten minutes
	@.ci/need packages git lintian rpmlint rpm cpio shellcheck mandoc || [ $$? = 2 ]
	.ci/again "-count=1 -timeout 30m" ./packaging/...

.PHONY: test-recipes
test-recipes: ## runs the programs of docs/recipes beside a broker; root, some minutes
	@.ci/need recipes python3 socat gcc jq curl logger journalctl || [ $$? = 2 ]
	cd docs/recipes && go vet ./... && ../../.ci/again "-count=1 -p 1 -timeout 20m" ./...
	cd docs/recipes/statsd && go vet ./... && ../../../.ci/again "-count=1 -timeout 10m" ./...
	cd docs/recipes/agents && go vet ./... && ../../../.ci/again "-count=1 -timeout 20m" ./...

# One after the other: both build the server on their first run, and the second is for hosts that are network namespaces.
.PHONY: test-bridge
test-bridge: ## the bridge to NATS with real servers, one and a cluster, killed BRIDGE_KILLS (100) times with all beside it; root, under six minutes
	@.ci/need bridge ip || [ $$? = 2 ]
	cd cmd/msgmux-nats && go vet ./... && MSGMUX_BRIDGE_KILLS=$(BRIDGE_KILLS) ../../.ci/again "-count=1 -p 1 -timeout 10m" ./...
	@cd cmd/msgmux-nats && ../../.ci/fuzz $(FUZZTIME)

.PHONY: test-race
test-race: ## the client and the core packages under the race detector
	@if .ci/need unit gcc; then CGO_ENABLED=1 .ci/again "-race -count=1 -timeout 8m -skip $(RACE_SKIP)" $(RACE_PACKAGES); else [ $$? = 2 ]; fi

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (20s)
	@.ci/fuzz $(FUZZTIME)

.PHONY: soak
soak: ## hours: every mistake in the ring, every instruction, SOAK_KILLS (10000) kills, SOAK_BRIDGE_KILLS (2000) of a bridge and all beside it, restarts, SOAK_UPGRADES (10) upgrades under load, SOAK_FUZZ (10m) of each fuzz target
	@$(MAKE) --no-print-directory test-proof
	@$(MAKE) --no-print-directory mistakes MUTANTS=0
	MSGMUX_STEP=all go test -count=1 -timeout 0 -v -run TestEveryInstruction ./broker/ring
	MSGMUX_SOAK_KILLS=$(SOAK_KILLS) go test -count=1 -timeout 0 -v ./broker/crashtest
	MSGMUX_SOAK_RESTARTS=$(SOAK_RESTARTS) MSGMUX_SOAK_KILLS=$(SOAK_SYSTEMD_KILLS) go test -count=1 -timeout 0 -v -run 'TestRestartIsInvisible|TestKillIsInvisible' ./units
	cd docs/recipes && MSGMUX_SOAK_KILLS=$(SOAK_KILLS) go test -count=1 -timeout 0 -v -run TestPromise10 .
	MSGMUX_SOAK_UPGRADES=$(SOAK_UPGRADES) go test -count=1 -timeout 0 -v -run TestUpgradeUnderLoad ./packaging
	cd cmd/msgmux-nats && MSGMUX_BRIDGE_KILLS=$(SOAK_BRIDGE_KILLS) go test -count=1 -timeout 0 -v -run TestKills .
	@$(MAKE) --no-print-directory fuzz FUZZTIME=$(SOAK_FUZZ)

.PHONY: bench
bench: build ## figures beside the floors, root, 7 minutes; internal/bench/README.md has more
	cd internal/bench && go run ./driver suite

.PHONY: lint
lint: ## gofmt, vet of every module, golangci-lint, shellcheck
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt these:"; echo "$$unformatted"; exit 1; }
	git ls-files -- go.mod '*/go.mod' | while read -r module; do (cd "$$(dirname "$$module")" && go vet ./...); done
	go run $(GOLANGCI) run
	@if .ci/need lint shellcheck; then shellcheck -x $(SCRIPTS); else [ $$? = 2 ]; fi

.PHONY: release-check
release-check: ## hours: prints what must hold before a release, and does it
	@.ci/release-check

.PHONY: parts
parts:
	@echo $(PARTS)

.PHONY: cover
cover: ## test coverage, build/cover.html
	@mkdir -p build
	go test -timeout 10m -coverpkg=./... -coverprofile=build/cover.out $(UNIT_PACKAGES)
	go tool cover -html=build/cover.out -o build/cover.html
	go tool cover -func=build/cover.out | tail -n 1

.PHONY: clean
clean: ## remove what was built
	rm -rf bin build internal/bench/build

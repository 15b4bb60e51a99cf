# Go alone is enough for run, build and fuzz. What the others need beside it, they get themselves. The tools' versions are pinned here.

GOLANGCI_LINT := bin/golangci-lint-v2.15.0
GOVULNCHECK   := bin/govulncheck-v1.9.0
GOTESTSUM     := bin/gotestsum-v1.13.0

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: build ## Run a server on 127.0.0.1:8080 with its data in ./data (flags: ARGS="…")
	@exec bin/esh3ar serve $(ARGS)

.PHONY: cluster
cluster: build ## Run three nodes, a PostgreSQL and a balancer to try; Ctrl-C ends and removes all (flags: ARGS="…")
	@exec bin/esh3ar cluster $(ARGS)

.PHONY: build
build: ## Build bin/esh3ar
	go build -o bin/esh3ar ./cmd/esh3ar

.PHONY: test
test: setup $(GOTESTSUM) ## Run every test, race detector on: unit, conformance, end to end, crash
	@GOTESTSUM=$(GOTESTSUM) scripts/test ./...

.PHONY: race
race: setup $(GOTESTSUM) ## Run the unit and conformance tests alone, race detector on
	@GOTESTSUM=$(GOTESTSUM) scripts/test $$(go list ./... | grep -vE '/(e2e|internal/chaos)')

.PHONY: e2e
e2e: setup $(GOTESTSUM) ## Run the end-to-end tests against the real program
	@GOTESTSUM=$(GOTESTSUM) scripts/test ./e2e/...

.PHONY: crash
crash: ## Kill the real program under load, over and over, and account for every 202
	go test -count 1 -timeout 10m -run 'TestCrash' -v ./e2e/

.PHONY: chaos
chaos: build ## Break the real program for CHAOS_TIME (1h), seeds rising from CHAOS_SEED (1), over both stores
	bin/esh3ar chaos --quiet --store both --seed $(or $(CHAOS_SEED),1) --for $(or $(CHAOS_TIME),1h) --duration 45s

.PHONY: chaos-cluster
chaos-cluster: build ## The same over a cluster of three nodes, which are also cut off from each other
	bin/esh3ar chaos --quiet --nodes 3 --elastic 1 --balancer --seed $(or $(CHAOS_SEED),1) --for $(or $(CHAOS_TIME),1h) --duration 60s --settle 2m

.PHONY: soak
soak: setup ## Minutes without a database, little memory, 10,000 reconnects, a million messages: prints figures
	go test -count 1 -timeout 40m -tags soak -v -run 'TestDatabase|TestMemoryTight|TestReconnectStorm|TestMillionInJournal|TestBigInbox' ./e2e/ -outage 60s

.PHONY: lint
lint: $(GOLANGCI_LINT) $(GOVULNCHECK) ## Check style, import rules, known vulnerabilities
	go vet ./...
	go vet -tags soak ./e2e/
	$(GOLANGCI_LINT) run ./...
	@GOVULNCHECK=$(GOVULNCHECK) scripts/vulncheck ./...

.PHONY: deploy-check
deploy-check: ## Check the Helm chart and compose.yaml; some minutes the first time
	cd deploy/check && go vet ./... && go test ./...

.PHONY: bench
bench: build ## Measure the hot pieces, durable accepts beside a bare HTTP handler, the balancer beside HAProxy (flags: ARGS="…")
	@scripts/setup bench
	go test -run '^$$' -bench . -benchmem -benchtime 200ms $$(go list ./... | grep -vE '/(e2e|internal/chaos)')
	bin/esh3ar bench accept-ratio $(ARGS)
	bin/esh3ar bench balance --min-ratio 0.5 --max-added 2ms

.PHONY: growth
growth: build ## Measure how costs grow with load, nodes, shards and devices, and fit the model of docs/benchmarks.md; half an hour
	rm -f growth.jsonl
	scripts/growth growth.jsonl
	bin/esh3ar bench growth growth.jsonl

.PHONY: fuzz
fuzz: ## Fuzz each parser for FUZZTIME (10s)
	@scripts/fuzz $(or $(FUZZTIME),10s)

.PHONY: setup
setup: ## Get what the tests need beside Go: packages (root on Debian) and the npm modules
	@scripts/setup

.PHONY: clean
clean: ## Remove what was built; leaves ./data alone
	rm -rf bin dist {e2e/js,examples,signalr/jstest/current,signalr/jstest/oldest}/node_modules
	rm -rf examples/*/dist examples/browser-device/public/page.js

$(GOLANGCI_LINT):
	@scripts/install-tool github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 $@
$(GOVULNCHECK):
	@scripts/install-tool golang.org/x/vuln/cmd/govulncheck@v1.9.0 $@
$(GOTESTSUM):
	@scripts/install-tool gotest.tools/gotestsum@v1.13.0 $@

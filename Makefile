SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

export CGO_ENABLED ?= 0
engine := $(shell docker version >/dev/null 2>&1 && echo docker)

.PHONY: help
help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build drover, drover-worker and the demo's agent into bin/
	go build -o bin/ ./cmd/drover ./cmd/drover-worker
	go build -o bin/drover-demo-agent ./internal/demo/agent

.PHONY: image
image: build ## Build the worker's images, drover-worker:dev and drover-worker-demo:dev (needs Docker)
	cmd/drover-worker/image.sh

.PHONY: consul
consul: ## Provide a real Consul for the tests, built once into build/bin where there is none
	internal/tools/consul/build.sh

.PHONY: demo
demo: $(if $(engine),image,build) ## Show what drover is for: three items, one of them killed on its way
	@go run ./internal/demo

.PHONY: cases
cases: build consul ## Run the table of cases from the field; ONLY=G3,A1 some rows, OLD=path on an old drover
	@go run ./internal/cases $(if $(ONLY),-only $(ONLY)) $(if $(OLD),-old $(OLD))

.PHONY: lint
lint: ## Check format, go vet and staticcheck
	@unformatted=$$(gofmt -l cmd consul internal jobs nomad); \
	if [ -n "$$unformatted" ]; then echo "not as gofmt has it:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go tool staticcheck ./...

.PHONY: test
test: lint consul $(if $(engine),image,build) ## Check all that CI checks: lint, and the tests with the race detector
	@$(if $(engine),,echo "no Docker engine answers: the tests that need one are skipped")
	$(MAKE) --no-print-directory demo
	$(MAKE) --no-print-directory cases
	$(MAKE) --no-print-directory model
	CGO_ENABLED=1 DROVER_TEST_MUST_RUN=consul $(if $(engine),DROVER_TEST_IMAGE=drover-worker-demo:dev) \
		go tool gotestsum --format pkgname -- -race -p 2 -timeout 15m ./...

.PHONY: test-upgrade
test-upgrade: consul ## Take over the data and the running workers of da528de (needs the history; part of make test)
	DROVER_TEST_MUST_RUN=consul go test -count=1 -v -run TestUpgrade ./internal/app

.PHONY: model
model: ## Drive the orchestrator through 10,000 random orders of events, in virtual time
	go test -count=1 -run TestRulesHoldInEveryOrderOfEvents ./internal/orchestrator -rapid.checks=10000

.PHONY: bench
bench: $(if $(engine),image,build) ## Measure latencies; ONLY=name for one benchmark, REAL=1 on the Nomad and Consul on the PATH
	@go run ./internal/bench $(if $(ONLY),-only $(ONLY)) $(if $(REAL),-real)

.PHONY: outage
outage: build consul ## Kill Consul, Nomad, servers, workers and agents under 60 items; SEED=s, REAL=1 for the Nomad on the PATH
	@go run ./internal/outage $(if $(SEED),-seed $(SEED)) $(if $(REAL),-real)

.PHONY: outage-consul
outage-consul: build consul ## Kill Consul for OUTAGE=5m under 16 agents, then for longer than GRACE=1m
	@go run ./internal/outage -consul $(if $(OUTAGE),-outage $(OUTAGE)) $(if $(GRACE),-grace $(GRACE)) $(if $(REAL),-real)

fuzzed := work:FuzzSpec work:FuzzPaths cli:FuzzItems config:FuzzFile api:FuzzBodies api:FuzzQuery \
	worker/agent:FuzzReaders worker/testrun:FuzzCounter worker/testrun:FuzzReport

# Until Go 1.27 the end of -fuzztime is at times taken for a failure (golang/go#75804).
only_time_is_up = { grep -qx '    context deadline exceeded' build/fuzz.log && ! grep -Eq 'Failing input|panic:' build/fuzz.log; }

.PHONY: fuzz
fuzz: ## Feed every parser what comes to mind, MINUTES=5 each
	@mkdir -p build; for f in $(fuzzed); do \
		go test -run '^$$' -fuzz "^$${f#*:}$$" -fuzztime $(or $(MINUTES),5)m ./internal/$${f%:*} |& tee build/fuzz.log || $(only_time_is_up) || exit 1; \
	done

.PHONY: generate
generate: ## Write docs/reference: what every command says of itself, as pages and man pages
	go run ./internal/tools/reference

.PHONY: clean
clean: ## Remove what was built, except images
	rm -rf bin build

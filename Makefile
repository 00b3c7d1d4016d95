# What there is to run: `make help`. What must hold before a change lands: `make test`.

# Tools run at these versions, from the Go module proxy; nothing is installed. They are not in go.mod, since
# whoever uses the library would have to read past their dependencies.
GOLANGCI_LINT := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
export GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.8.0
export APIDIFF := golang.org/x/exp/cmd/apidiff@v0.0.0-20261014143641-f0251eb4aa3e

# The development Vault is a module of its own and builds with a tag of its own; integration comes last, because
# its tests take longest. examples/auth is one because of what the cloud providers' auth methods pull in.
MODULES := . examples examples/auth integration/devvault integration
TESTED  := . examples integration

# $(call each,MODULES,COMMAND) runs a command in each module and stops at the first that fails.
each = @set -e; for module in $(1); do printf '\n== %s: %s\n' "$$module" '$(2)'; (cd $$module && $(2)); done

# The steps of a target run in the order they are written, also under make -j.
.NOTPARALLEL:
.DEFAULT_GOAL := help

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

.PHONY: test
test: setup vet check-imports check-tidy check-api lint vulncheck test-race ## everything: all checks, and all tests on real servers; installs what is missing

.PHONY: test-short
test-short: check-imports ## what needs no server: vet, import rules and unit tests of the library and the examples
	$(call each,. examples,go vet ./...)
	$(call each,. examples,go test -race ./...)

.PHONY: demo
demo: ## the example service under load, on real servers, with leases of seconds; DB=mysql takes MariaDB, DURATION=90s ends it
	@integration/setup.sh $(if $(filter mysql,$(DB)),mariadb,postgres)
	@echo 'building the demo'
	@cd integration && go build -o ../bin/demo ./demo
	@exec bin/demo

.PHONY: bench
bench: ## pgvault beside raw pgxpool and the usual ways of rotating by hand; DB=mysql takes mysqlvault, ARGS=-quick is shorter
	@integration/setup.sh $(if $(filter mysql,$(DB)),mariadb,postgres)
	@echo 'building the benchmarks'
	@cd integration && go build -o ../bin/bench ./bench
	@exec bin/bench $(if $(DB),-db=$(DB)) $(ARGS)

.PHONY: chaos
chaos: ## both pools under load while everything between them fails, beside raw pools; five minutes, ARGS=-h for more
	@integration/setup.sh postgres mariadb
	@echo 'building the fault suite'
	@cd integration && go build -o ../bin/chaos ./chaos
	@exec bin/chaos $(ARGS)

.PHONY: soak
soak: ## the same for hours: eight, unless DURATION says
	@$(MAKE) --no-print-directory chaos ARGS='-duration=$(or $(DURATION),8h) $(ARGS)'

.PHONY: fleet
fleet: ## 10,000 instances on one Vault for three days, simulated in minutes; writes docs/benchmarks/fleet.md
	@echo 'building the simulation'
	@cd integration && go test -c -o ../bin/fleet ./fleet
	@exec bin/fleet -test.run='^TestFleet$$' -test.timeout=2h -instances=10000 -days=3 -out=docs/benchmarks $(ARGS)

.PHONY: setup
setup: ## install what is missing of PostgreSQL, MariaDB, a C compiler and Chromium (Debian, as root or with sudo)
	@integration/setup.sh postgres mariadb gcc chromium

.PHONY: vet
vet: ## go vet
	$(call each,$(MODULES),go vet -tags minimal ./...)

# Of examples/auth and the development Vault only the formatting: linters look at everything a package depends on, and that
# takes them many minutes. go vet looks at both.
.PHONY: lint
lint: ## golangci-lint, formatting included; building it takes minutes the first time
	$(call each,$(TESTED),$(GOLANGCI_LINT) run)
	$(call each,examples/auth integration/devvault,$(GOLANGCI_LINT) fmt --diff)

.PHONY: fmt
fmt: ## format everything with gofumpt
	$(call each,$(MODULES),$(GOLANGCI_LINT) fmt)

.PHONY: check-imports
check-imports: ## who may import whom
	@.ci/check-imports

.PHONY: check-api
check-api: ## nothing exported has changed incompatibly since the baseline
	@.ci/check-api

.PHONY: api-baseline
api-baseline: ## make what is exported now the baseline of check-api
	@.ci/check-api -w

# Not the development Vault: go mod tidy looks at all build tags, not only at minimal, and would add the hundreds of
# modules that Vault's other plugins need.
.PHONY: check-tidy
check-tidy: ## go.mod and go.sum are as go mod tidy leaves them
	$(call each,$(TESTED),go mod tidy -diff)

# Not the development Vault: its dependencies are those that Vault's own release pins, and nothing that is
# published contains them.
.PHONY: vulncheck
vulncheck: ## known vulnerabilities in code that we call; says so where their database cannot be reached
	$(call each,$(TESTED),$(CURDIR)/.ci/vulncheck)

.PHONY: test-race
test-race: ## all tests with the race detector; the servers must be installed (make setup)
	$(call each,$(TESTED),go test -race -timeout 20m ./...)

.PHONY: test-postgres
test-postgres: ## the tests of pgvault and its clients alone, on the PostgreSQL whose initdb is first in PATH
	@integration/setup.sh postgres mariadb gcc
	cd integration && go test -count=1 -race -timeout 20m ./pgvault ./pgvaultstdlib ./pqadapter ./conformance ./clients ./outofband ./readme

.PHONY: test-mysql
test-mysql: ## the tests of mysqlvault and its clients alone; PGVAULT_TEST_MYSQLD=/usr/sbin/mysqld takes MySQL instead of MariaDB
	@integration/setup.sh postgres gcc $(if $(PGVAULT_TEST_MYSQLD),,mariadb)
	cd integration && go test -count=1 -race -timeout 20m ./mysqlvault ./conformance ./clients ./outofband

.PHONY: clean
clean: ## remove what make built here
	rm -rf bin

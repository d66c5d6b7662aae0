# Falaj. `make demo` shows the whole story; `make help` lists the rest.
# The first call makes .venv and installs exactly what requirements.lock says.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
FEAST := .venv-peers/feast/.ready
SERVERS := $(foreach name,mlserver triton litserve bentoml kserve,.venv-peers/$(name)/.ready)
WATCHERS := $(foreach name,alibi evidently greatexpectations nannyml validators whylogs,.venv-peers/$(name)/.ready)
WORKERS ?= 2
SIZE ?= small

# Whatever the shell says, compiled modules are kept: without them each process of Falaj would
# compile some thousand modules before it does anything.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo test coverage test-nightly check format docs peers model-signing sbom wrk \
	softhsm oidc-provider axe mlflow-client mlflow-torch torch bench lock clean
.DEFAULT_GOAL := help

help: ## list what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Falaj needs Python 3.11 or newer; none was found."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "uv==0.13.9"
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $(READY)

install: $(READY) ## make .venv with everything that the lock names

demo: $(READY) ## the whole story on real flights, in a few minutes
	@$(BIN)/falaj demo

test: $(READY) softhsm oidc-provider axe mlflow-client ## the ordinary tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not nightly"

coverage: $(READY) softhsm oidc-provider axe mlflow-client ## the ordinary tests, counting the lines that they reach; a third slower
	$(BIN)/coverage erase
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not nightly" --cov --cov-report=term

test-nightly: $(READY) oidc-provider axe mlflow-client ## the slow profile: many kills, long simulations
	$(BIN)/python -m pytest -n $(WORKERS) -m nightly

check: $(READY) ## format, lint, types, layers, documentation
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir .venv/site

format: $(READY) ## put code into its form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY) ## read the documentation at http://127.0.0.1:8000
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

bench: $(READY) peers wrk ## all benchmarks; SIZE=full for the figures that count
	@for file in benchmarks/*/*.py; do echo "== $$file"; $(BIN)/python $$file --size $(SIZE) || exit 1; done

# Those whom we measure against have dependencies of their own: each gets an environment of
# its own, which nothing but the benchmarks uses. A model server that cannot be installed
# here is left out, and the benchmarks say so.
$(FEAST): pyproject.toml | $(READY)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-peers/feast
	$(BIN)/uv pip install --quiet --python .venv-peers/feast/bin/python --group peers
	@touch $@

.venv-peers/%/.ready: benchmarks/serving/peers/requirements-%.txt | $(READY)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-peers/$*
	@$(BIN)/uv pip install --quiet --python .venv-peers/$*/bin/python --requirement $< \
		|| { echo "$* cannot be installed here and is left out."; rm -rf .venv-peers/$*; mkdir .venv-peers/$*; }
	@touch $@

peers: $(FEAST) $(SERVERS) $(WATCHERS) ## make .venv-peers with the programs that benchmarks compare with

# The official verifier of signed models brings a client of Sigstore along: it stands apart.
.venv-peers/model-signing/.ready: tests/models/requirements-model-signing.txt | $(READY)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-peers/model-signing
	@$(BIN)/uv pip install --quiet --python .venv-peers/model-signing/bin/python --requirement $<
	@touch $@

model-signing: .venv-peers/model-signing/.ready ## make the official verifier of signed models, for the tests

# MLflow's client wants some eighty distributions of its own: it stands apart as well.
.venv-peers/mlflow/.ready: tests/interfaces/mlflow/requirements-client.txt | $(READY)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-peers/mlflow
	@$(BIN)/uv pip install --quiet --python .venv-peers/mlflow/bin/python --no-deps "mlflow==3.18.0"
	@$(BIN)/uv pip install --quiet --python .venv-peers/mlflow/bin/python --requirement $<
	@touch $@

mlflow-client: .venv-peers/mlflow/.ready ## make the MLflow client that tests and benchmarks use

# PyTorch is large; without an index of PyTorch's own, pip takes a build for GPUs on Linux.
.venv/.torch: $(READY)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "lightning==2.6.6" && touch $@

.venv-peers/mlflow/.torch: .venv-peers/mlflow/.ready
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@$(BIN)/python -m pip --python .venv-peers/mlflow/bin/python install --quiet --disable-pip-version-check \
		"torch==2.13.0" "lightning==2.6.6" && touch $@

mlflow-torch: .venv-peers/mlflow/.torch ## install both beside MLflow's client as well, for the nightly tests of mlflow.pytorch

torch: .venv/.torch ## install PyTorch and Lightning, for the tests that use them

wrk: ## install the load generator of the serving benchmarks (Debian's, needs root)
	@command -v wrk >/dev/null || { apt-get install --yes --quiet wrk >/dev/null 2>&1 \
		|| { apt-get update --quiet >/dev/null 2>&1 && apt-get install --yes --quiet wrk >/dev/null 2>&1; } \
		|| echo "wrk could not be installed (apt-get install wrk, as root): a client in Python makes the load."; }

softhsm: ## install the hardware module in software that tests of keys use (Debian's, needs root)
	@command -v softhsm2-util >/dev/null || { apt-get install --yes --quiet softhsm2 >/dev/null 2>&1 \
		|| { apt-get update --quiet >/dev/null 2>&1 && apt-get install --yes --quiet softhsm2 >/dev/null 2>&1; } \
		|| echo "SoftHSM2 could not be installed (apt-get install softhsm2, as root): its tests are skipped."; }

# What npm installs here runs in tests alone, and none of its install scripts runs.
tests/oidc-provider/node_modules/.package-lock.json: tests/oidc-provider/package-lock.json
	@npm ci --prefix tests/oidc-provider --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null \
		&& touch $@ \
		|| echo "The OpenID provider of the tests could not be installed (it needs Node 20 or newer, and npm): its tests are skipped."

oidc-provider: tests/oidc-provider/node_modules/.package-lock.json ## install the OpenID provider that tests of signing in use

# axe-core looks at our pages, in a browser, for what keeps people from using them.
tests/axe/node_modules/.package-lock.json: tests/axe/package-lock.json
	@npm ci --prefix tests/axe --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null \
		&& touch $@ \
		|| echo "axe-core could not be installed (it needs Node and npm): the tests of accessibility are skipped."

axe: tests/axe/node_modules/.package-lock.json ## install what the tests of accessibility look at pages with

# Those who watch over data and models, for benchmarks/monitoring.
.venv-peers/%/.ready: benchmarks/monitoring/peers/requirements-%.txt | $(READY)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-peers/$*
	@$(BIN)/uv pip install --quiet --python .venv-peers/$*/bin/python --requirement $< \
		|| { echo "$* cannot be installed here and is left out."; rm -rf .venv-peers/$*; mkdir .venv-peers/$*; }
	@touch $@

bench-monitoring: $(WATCHERS)

bench-features: $(FEAST) wrk

bench-serving: $(SERVERS) wrk

bench-%: $(READY)
	@for file in benchmarks/$*/*.py; do echo "== $$file"; $(BIN)/python $$file --size $(SIZE) || exit 1; done

sbom: $(READY) ## write dist/sbom.json, the bill of materials of Falaj (CycloneDX), from the lock
	@mkdir -p dist
	$(BIN)/python -m falaj.interfaces.sbom requirements.lock > dist/sbom.json

lock: $(READY) ## choose versions anew and write requirements.lock
	$(BIN)/uv lock --upgrade --quiet
	$(BIN)/uv export --quiet --all-groups --no-group peers --no-emit-project --no-header --no-annotate \
		--format requirements-txt --output-file requirements.lock

clean: ## remove .venv and everything that was built
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* site dist

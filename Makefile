# The verbs of phiserve. `make serve` and `make test` need only Python >= 3.11 with venv; the rest is installed
# into .venv from constraints.txt.

PYTHON ?= python3
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 8000
GRPC_PORT ?= 8001
STORE ?= model_store/artifacts
VARIANTS ?= lite0 lite0-int8 lite1 lite1-int8 lite2 lite2-int8
SERVE_FLAGS ?=
DOCKER ?= docker
BUILD_FLAGS ?=
SCENARIOS ?=
TARGET ?= cpu
TEST_PROCESSES ?= 2
PYTEST_FLAGS ?=

bin := $(VENV)/bin
serve_ready := $(VENV)/.installed-serve
dev_ready := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help serve store test lint format types openvino-test parity interop deploy-check ops-test image image-test sim bench proto lock clean

help: ## List the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(bin)/python:
	@$(PYTHON) -c 'import sys; sys.exit("phiserve needs Python 3.11 or newer; PYTHON=/path/to/python3.11 make … chooses one") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)

$(serve_ready): pyproject.toml constraints.txt | $(bin)/python
	$(bin)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cpu,lite]'
	@touch $@

$(dev_ready): pyproject.toml constraints.txt | $(bin)/python
	$(bin)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cpu,lite,dev]'
	@touch $@ $(serve_ready)

store: $(serve_ready) ## Build the model store (VARIANTS="lite0 lite0-int8 …")
	@$(bin)/phiserve store build $(VARIANTS) --store $(STORE)

serve: store ## Serve on http://127.0.0.1:8000 and grpc://…:8001 (PORT=, GRPC_PORT=, HOST=, STORE=, SERVE_FLAGS=)
	@exec $(bin)/phiserve serve --host $(HOST) --port $(PORT) --grpc-port $(GRPC_PORT) --store $(STORE) $(SERVE_FLAGS)

test: $(dev_ready) ## Run the tests (TEST_PROCESSES=, PYTEST_FLAGS=)
	@PYTHONDONTWRITEBYTECODE= $(bin)/python -m pytest --numprocesses $(TEST_PROCESSES) $(PYTEST_FLAGS)

lint: $(dev_ready) ## Check style, format, types and the wire contract
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .
	@$(bin)/mypy
	@$(bin)/python proto/contract.py check

format: $(dev_ready) ## Format and mend what can be mended
	@$(bin)/ruff check --fix --quiet . || true
	@$(bin)/ruff format .

openvino-test: ## Run the tests that need OpenVINO, in a venv of its own
	@$(PYTHON) -m venv .venv-openvino
	@.venv-openvino/bin/pip install --quiet --disable-pip-version-check --requirement benchmarks/openvino-requirements.txt
	@.venv-openvino/bin/python -m pytest tests/service/runtime/test_openvino.py tests/service/test_provider_choice.py

parity: ## Compare every graph with reference implementations under torch, in their own venv
	@$(PYTHON) -m venv .venv-parity
	@.venv-parity/bin/pip install --quiet --disable-pip-version-check --requirement tests/parity/requirements.txt
	@.venv-parity/bin/python tests/parity/parity.py

interop: $(dev_ready) store ## Run clients of Triton, KServe, MLServer and others against a server, in their own venvs
	@$(bin)/python -m tests.interop $(STORE)

deploy-check: $(dev_ready) store ## Check image, compose file, manifests, rules and dashboard with their own tools
	@$(PYTHON) -m venv .venv-deploy
	@.venv-deploy/bin/pip install --quiet --disable-pip-version-check --requirement deploy/requirements.txt
	@PATH="$(CURDIR)/.venv-deploy/bin:$$PATH" DEPLOY_PYTHON=$(bin)/python deploy/check.sh

ops-test: $(dev_ready) ## Restart, kill and stop servers behind a real Envoy under load (SCENARIOS="rolling one …")
	@$(PYTHON) -m venv .venv-deploy
	@.venv-deploy/bin/pip install --quiet --disable-pip-version-check --requirement deploy/requirements.txt
	@$(bin)/python -m tests.operations $(SCENARIOS)

image: ## Build the container image (TARGET=cpu or gpu, VARIANTS=, DOCKER=podman)
	$(DOCKER) build $(BUILD_FLAGS) --target $(TARGET) --build-arg VARIANTS="$(VARIANTS)" --tag phiserve:$(TARGET) .

image-test: $(dev_ready) ## Build the image, run it by engine, compose and manifest, and drain it (DOCKER=podman, BUILD_FLAGS=)
	@$(PYTHON) -m venv .venv-deploy
	@.venv-deploy/bin/pip install --quiet --disable-pip-version-check --requirement deploy/requirements.txt
	@PATH="$(CURDIR)/.venv-deploy/bin:$$PATH" $(bin)/python -m tests.containers --engine "$(DOCKER)" --build-flags="$(BUILD_FLAGS)"

sim: $(dev_ready) ## Simulate the scheduler over loads and seeds
	@$(bin)/python -m tests.simulation

bench: $(dev_ready) ## Measure; results go to benchmarks/results/ (BENCH="planner replay", TRACES=, PHOTOGRAPHS=folder)
	@$(bin)/python -m benchmarks $(BENCH) $(if $(TRACES),--traces $(TRACES)) $(if $(PHOTOGRAPHS),--photographs $(PHOTOGRAPHS))

proto: $(dev_ready) ## Make the stubs of proto/ anew, and check that no client breaks
	@$(bin)/python proto/contract.py generate
	@$(bin)/python proto/contract.py check

lock: ## Pin the newest versions that fit pyproject.toml into constraints.txt
	@rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/pip install --quiet --disable-pip-version-check '.[cpu,lite,dev]'
	@.venv-lock/bin/pip freeze --exclude phiserve > constraints.txt
	@rm -rf .venv-lock

clean: ## Remove what was installed and built
	rm -rf $(VENV) .venv-deploy .venv-interop .venv-openvino .venv-parity .venv-peers build *.egg-info $(STORE)

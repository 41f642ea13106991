# Everything that is done here starts with `make`; `make help` lists it.
# A Python other than the one found is named with PYTHON=…, flags for a command are passed with ARGS=….

BIN := .venv/bin
# Together, so that each check's output comes in one piece; make before 4.0 cannot.
SYNC := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)
export PYTHON

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help up demo test checks test-vllm test-envoy test-globus envoy bench bench-globus lint format types layers protos protos-check lock clean

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

up: .venv/.installed ## start the whole mesh on this machine, with a simulated vLLM; Ctrl-C stops it
	@exec $(BIN)/weft up $(ARGS)

demo: .venv/.installed ## the same, ask it one question, show the answer and the status, and stop
	@exec $(BIN)/weft demo $(ARGS)

test: checks ## every check and test, but for the real vLLM, Envoy and Globus Compute; says what it left out
	$(BIN)/pytest tests/unit tests/contract tests/integration $(ARGS)

checks: .venv/.installed
	@$(MAKE) --no-print-directory --jobs=4 $(SYNC) lint types layers protos-check

test-vllm: .venv/.installed ## the tests against a real vLLM on the CPU; the first time builds it, outside the checkout
	@python=$$($(BIN)/python tests/vllm/environment/build.py) && WEFT_VLLM_PYTHON=$$python $(BIN)/pytest tests/vllm $(ARGS)

test-envoy: .venv/.installed ## the tests with the real Envoy in front; the first time fetches it, outside the checkout
	@envoy=$$($(BIN)/python tests/envoy/environment/build.py) && xds=$$($(BIN)/python tests/envoy/environment/build_xds.py) && \
	  WEFT_ENVOY=$$envoy WEFT_XDS_PYTHON=$$xds $(BIN)/pytest tests/envoy $(ARGS)

test-globus: .venv/.installed ## the tests with real Globus Compute endpoints, a real Slurm and a real vLLM; as root
	@bash tests/globus/environment/install.sh
	@endpoint=$$($(BIN)/python tests/globus/environment/build.py) && vllm=$$($(BIN)/python tests/vllm/environment/build.py) && \
	  WEFT_ENDPOINT_PYTHON=$$endpoint WEFT_VLLM_PYTHON=$$vllm $(BIN)/pytest -o faulthandler_timeout=900 tests/globus $(ARGS)

envoy: .venv/.installed ## write deploy/envoy anew from its weft.yaml
	@env -u WEFT_HOME $(BIN)/weft --config deploy/envoy/weft.yaml envoy render --out deploy/envoy

bench: .venv/.installed ## measure what the mesh adds to a request
	@exec $(BIN)/python -m bench $(ARGS)

bench-globus: .venv/.installed ## measure what Globus Compute costs a call, with a real endpoint and a real vLLM; as root
	@bash tests/globus/environment/install.sh
	@exec $(BIN)/python -m bench.globus $(ARGS)

lint: .venv/.installed ## ruff: mistakes and layout
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: .venv/.installed ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: .venv/.installed ## mypy, strict
	$(BIN)/mypy

layers: .venv/.installed ## who may import whom
	$(BIN)/lint-imports --no-logo
	$(BIN)/lint-imports --no-logo --config client/importlinter.toml

protos: .venv/.installed ## write the stubs anew from the protos
	$(BIN)/buf format --write protos
	$(BIN)/python protos/generate.py

protos-check: .venv/.installed ## the protos: lint, compatible with main, stubs up to date
	bash protos/check.sh

lock: .venv/.installed ## pin the dependencies of pyproject.toml; ARGS=--upgrade takes newer ones
	$(BIN)/python -m pip install --quiet uv==0.13.8
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --generate-hashes \
	  --no-header --no-annotate --no-emit-index-url $(ARGS) --output-file requirements.lock pyproject.toml

clean: ## remove the environment and every cache
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find services client examples tests bench compute_functions protos -name __pycache__ -prune -exec rm -rf {} +

.venv/.installed: requirements.lock pyproject.toml
	@bash .ci/environment.sh

# make check | demo | test | test-pairs | test-valkey | nightly | others | bench | company | lint | fmt | docs | clean
# Each target first makes or refreshes .venv; all that it needs is make and a Python of at least 3.11 with venv.

PYTHON ?= python3
BIN := .venv/bin
# What checks with weaver need comes along where weaver is.
COMMA := ,
EXTRAS = test$(if $(shell command -v weaver),$(COMMA)weaver)
UV_INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python

COMPANY := $(addprefix .venv/company/,$(addsuffix /.done,official openllmetry openinference langfuse botocore logfire agentops))

# The pairs of versions that the patch suite passes beside the newest: a requirement file for each. Those between the
# oldest and the newest run at night.
NIGHTLY_PAIRS := frameworks genai2
PAIRS := $(filter-out $(NIGHTLY_PAIRS),$(basename $(notdir $(wildcard tests/pairs/*.txt))))
# What the versions of an SDK change.
PAIR_TESTS = $(addprefix tests/instrumentation/test_,versions.py conformance.py calls.py clouds.py \
  closed_bodies.py dropped_streams.py failed_answers.py cancelled_calls.py stream_leases.py retries.py stream_usage.py \
  inference_spans.py inference_span_ends.py current_inference_span.py inference_metrics.py usage_shapes.py bedrock.py \
  http.py openai_endpoints.py) \
  -k 'not (google_genai or gemini or interactions or litellm or $(SMALL_SDKS))'
# Only google-genai.
test-genai1 test-genai2: PAIR_TESTS = $(addprefix tests/instrumentation/test_,versions.py google_genai.py \
  interactions.py conformance.py) -k 'genai or gemini or interactions'
# Only LiteLLM.
test-litellm1: PAIR_TESTS = $(addprefix tests/instrumentation/test_,versions.py litellm.py litellm_cache.py \
  conformance.py) -k litellm
# Only what aiobotocore and its older botocore change.
test-aiobotocore: PAIR_TESTS = $(addprefix tests/instrumentation/test_,versions.py bedrock.py conformance.py) \
  -k 'botocore or bedrock'
# Only these SDKs.
SMALL_SDKS = mistral or ollama or cohere or azure-ai or azure_inference or huggingface or claude or small_sdks
test-small_sdks_old: PAIR_TESTS = $(addprefix tests/instrumentation/test_,versions.py conformance.py claude_agent_sdk.py) \
  -k '$(SMALL_SDKS)'
# Programs and adapters of the agent frameworks that only this set has, and of all together.
test-agents_old: PAIR_TESTS = tests/frameworks $(addprefix tests/compat/adapters/test_,google_adk.py crewai.py) \
  -k 'google_adk or crewai or mixed or demo'
# Only what depends on how wrapt wraps and unwraps.
test-wrapt1: PAIR_TESTS = $(addprefix tests/patching/test_,unwrapping.py identity_hooks.py) $(addprefix tests/instrumentation/test_,versions.py calls.py survival.py)

# What Valkey as the server that processes share may change: engine, ledger, doctor, with a fifth of the random runs.
# Another one: make test-valkey VALKEY=/path/to/valkey-server
VALKEY := $(shell command -v valkey-server)
VALKEY_TESTS = $(addprefix tests/,engine/redis budgets/test_redis_ledger.py budgets/test_ledger_chaos.py \
  budgets/test_ledger_contract.py budgets/test_granted_reservations.py budgets/test_run_budgets.py \
  cli/test_shared_engine.py instrumentation/test_sdk_redis_ledger.py)

UNIT_TESTS := $(addprefix tests/,core budgets compat config runtime patching telemetry simulation)

NIGHTLY_TESTS = $(UNIT_TESTS) $(addprefix tests/,engine waiting instrumentation/paths/test_forks.py \
  instrumentation/test_conformance.py cli/doctor/test_doctor_page.py frameworks/test_run_latency.py)

.PHONY: check demo test test-pairs test-valkey nightly $(PAIRS:%=test-%) $(NIGHTLY_PAIRS:%=test-%) others bench company lint fmt docs dashboards clean

demo: .venv/.demo .venv/.demo-frameworks
	$(BIN)/python examples/demo/run.py
	$(BIN)/python examples/demo/run.py examples/frameworks.py .venv/demo/frameworks
	$(BIN)/python examples/demo/processes.py

# Before each commit: nothing to install but .venv, no SDK and no server.
check: lint
	$(BIN)/python -m pytest -q -n auto --dist worksteal --ignore tests/compat/adapters --ignore tests/compat/test_a2a.py $(UNIT_TESTS)

# The tests wait more than they compute: two at a time take little more than half the time.
test: lint company $(if $(shell command -v npm),.venv/grafana/.done)
	$(BIN)/python -m pytest -n 2 --dist worksteal
	$(MAKE) test-pairs

# They wait more than they compute, and wait together. Agent frameworks have a pair of their own.
test-pairs:
	$(MAKE) --jobs=3 --output-sync=target $(PAIRS:%=test-%) $(if $(VALKEY),test-valkey)
	$(if $(VALKEY),,@echo "no valkey-server on the PATH: nothing was tested on Valkey" >&2)

$(PAIRS:%=test-%) $(NIGHTLY_PAIRS:%=test-%): test-%: .venv/.pair-%
	SDK_PAIR=$* PYTHONPATH=$(CURDIR)/.venv/pairs/$* $(BIN)/python -m pytest -p no:cacheprovider $(PAIR_TESTS)

test-valkey: .venv/.test
	REDIS_SERVER=$(or $(VALKEY),valkey-server) TEST_EFFORT=0.2 $(BIN)/python -m pytest -p no:cacheprovider $(VALKEY_TESTS)

# The tests that draw at random, and those of forks, with twenty times the runs; slow ones; further pairs of versions; the
# tests of others, which take most of an hour.
nightly: .venv/.test
	TEST_EFFORT=20 $(BIN)/python -m pytest -o timeout=0 -m "" -n auto --dist worksteal $(NIGHTLY_TESTS)
	$(MAKE) $(NIGHTLY_PAIRS:%=test-%)
	$(MAKE) others

# The tests that SDKs and instrumentors publish; OTHERS names some of them: make others OTHERS=openai
others: .venv/.others
	nice $(BIN)/python tests/others $(OTHERS)

bench: .venv/.test company
	-test -d .venv/published/loco || $(UV_INSTALL) --no-deps --target .venv/published loco-agent==0.2.2
	$(BIN)/python -m benchmarks

# Other vendors' instrumentors, each in a folder of its own, for PYTHONPATH: in .venv itself their entry points would
# instrument whatever the tests launch.
company: $(COMPANY)

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: .venv/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/.test
	$(BIN)/python -m loco_otel._telemetry.page docs/telemetry.md
	$(BIN)/python -m loco_otel._telemetry.registry semconv/loco.yaml
	$(BIN)/python -m loco_otel._telemetry.questions docs/questions.md
	$(BIN)/python tests/support/coverage_page.py docs/coverage.md
	$(BIN)/python tests/support/doctor_page.py docs/doctor.md

dashboards: .venv/.test
	$(BIN)/python -m dashboards.builder

clean:
	rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.demo: pyproject.toml $(BIN)/uv
	$(UV_INSTALL) -e '.[demo]'
	touch $@

# An overlay for the program of the second act alone.
.venv/.demo-frameworks: examples/demo/frameworks.txt .venv/.demo
	rm -rf .venv/demo/frameworks
	$(UV_INSTALL) --target .venv/demo/frameworks -r $<
	touch $@

.venv/company/%/.done: pyproject.toml $(BIN)/uv
	rm -rf $(@D)
	$(UV_INSTALL) --no-deps --target $(@D) --group $*
	touch $@

# Grafana's published types, which the dashboards are checked against.
.venv/grafana/.done: tests/dashboards/grafana_types/package.json $(BIN)/uv
	mkdir -p $(@D)
	cp $< $(@D)/
	npm install --silent --no-audit --no-fund --no-package-lock --prefix $(@D)
	touch $@

.venv/.test: pyproject.toml $(BIN)/uv
	$(UV_INSTALL) -e '.[$(EXTRAS)]'
	touch $@

# An overlay: it comes before what is installed, here and in the processes that tests start.
.venv/.pair-%: tests/pairs/%.txt .venv/.test
	rm -rf .venv/pairs/$*
	$(UV_INSTALL) --target .venv/pairs/$* -r $<
	touch $@

.venv/.others: tests/others/requirements.txt .venv/.test
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv/others/env
	$(BIN)/uv pip install --quiet --compile-bytecode --python .venv/others/env/bin/python -e . -r $<
	touch $@

$(BIN)/uv: | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	touch $@

# A name on the PATH may be too old, a shim with nothing behind it, or a Python without venv: each is tried out.
$(BIN)/python:
	@for python in $(PYTHON) python3.13 python3.12 python3.11; do \
	  if $$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "$$python -m venv .venv"; \
	    exec $$python -m venv --clear .venv; \
	  fi; \
	done; \
	echo "loco-otel needs Python 3.11 or newer with venv (Debian: apt-get install python3-venv);" \
	  "name one with: make PYTHON=/path/to/python3" >&2; \
	exit 1

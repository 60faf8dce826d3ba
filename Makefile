# Every target sets itself up: it needs Python 3.11 to 3.13 and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
# The suite's own workers use the cores; more threads would slow it down.
export OMP_NUM_THREADS ?= 1
# Bytecode is kept below .venv: without it each of the many processes of the tests compiles torch's sources again.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX ?= $(CURDIR)/$(VENV)/pycache

NEWEST := .venv-newest
DOCS := .venv-docs

.PHONY: setup demo reproduce-tiny test test-fast test-newest fault-table fuzz check docs browser format lock clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --require-hashes --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --python $(BIN)/python --editable .
	touch $(STAMP)

demo: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" bash demo.sh

# All tables of the papers with small models on drawn videos; an interrupted one goes on. Of one paper: PAPERS=crossmae
PAPERS ?= deepavfusion avsiam crossmae cav-mae
reproduce-tiny: setup
	set -e; for paper in $(PAPERS); do $(BIN)/avkit reproduce $$paper --scale tiny; done

test: setup
	$(BIN)/pytest --numprocesses 2 --dist worksteal

# For every save: unit and property tests, without those marked slow.
test-fast: setup
	$(BIN)/pytest --numprocesses 2 --dist worksteal -m "not slow" tests/unit tests/property

# What was wrong, tried, expected and seen; of some groups only: make fault-table GROUPS="sources"
fault-table: setup
	$(BIN)/python -m tests.faults.fault_table $(GROUPS)

# Reads mutants of every kind of file from outside; prints findings, then a table. One mutant again:
# make fuzz ONE="--target 'list: table.csv' --seed 17 --count 1"
HOURS ?= 0.1
SEED ?= 0
fuzz: setup
	$(BIN)/python -m tests.faults.fuzz $(if $(ONE),$(ONE),--hours $(HOURS) --seed $(SEED))

# The newest versions that pyproject.toml allows, without a lock, in an environment of its own (docs/newest.md).
test-newest:
	rm -rf $(NEWEST)
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(NEWEST)/bin/uv pip install --quiet --upgrade --python $(NEWEST)/bin/python --editable '.[dev]'
	$(NEWEST)/bin/uv pip list --python $(NEWEST)/bin/python > $(NEWEST)/versions.txt
	$(NEWEST)/bin/pytest --numprocesses 2 --dist worksteal tests/unit tests/property tests/golden \
		tests/integration/test_prepare.py tests/integration/test_startup_imports.py

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, in site/; fails for links to pages or headings that are not there. An environment of its own, from a lock of its own.
docs: $(DOCS)/.set-up
	rm -rf site
	$(DOCS)/bin/zensical build --strict --clean
	$(DOCS)/bin/python -m tests.site_pages
	@echo "site/index.html: open it in a browser; for its search: python3 -m http.server --bind 127.0.0.1 --directory site"

$(DOCS)/.set-up: requirements-docs.lock
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-docs.lock
	touch $@

# For the tests of inspect's pages; without it they are skipped. Installed where that needs no question.
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && { apt-get update --quiet; \
			DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends chromium; } >/dev/null 2>&1; } \
		|| echo "no Chromium here: the tests that need it are skipped"

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: setup
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --quiet --output-file requirements.lock
	$(BIN)/uv pip compile --group pyproject.toml:docs --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --quiet --output-file requirements-docs.lock

clean:
	rm -rf $(VENV) $(NEWEST) $(DOCS) demo site

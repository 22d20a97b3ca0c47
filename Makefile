# `make demo` and `make test` are all that a fresh machine needs: Python 3.11 to 3.13 and make.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
# A company's own certificates count for uv as they do for pip.
export UV_SYSTEM_CERTS := true

.PHONY: demo test dev check audit bench screenshots lock clean

demo: $(BIN)/.ready
	$(BIN)/ml-patterns demo

test: $(BIN)/.ready
	$(BIN)/pytest -n $(WORKERS) --dist worksteal $(ARGS)

dev: $(BIN)/.ready
	$(BIN)/ml-patterns dev

check: $(BIN)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/audit.py requirements.lock --if-reachable

# Known vulnerabilities of what is pinned; ends with 2 where nobody can be asked.
audit: $(BIN)/.ready
	$(BIN)/python scripts/audit.py requirements.lock

bench: $(BIN)/.ready
	for name in incremental fan_out branching resilience serving cold_start; do \
		$(BIN)/python -m benchmarks.$$name || exit 1; \
	done

# The pictures of README and docs; wants a Chromium on PATH.
screenshots: $(BIN)/.ready
	$(BIN)/python -m ml_patterns_tests.ui.screenshots docs/pictures

# Pins every dependency with its hashes; run it after a change of pyproject.toml.
lock: $(BIN)/.ready
	$(BIN)/uv pip compile pyproject.toml --quiet --group dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
		--output-file requirements.lock

clean:
	rm -rf .venv data/demo data/dagster data/artifacts data/*.duckdb* data/*.sqlite*

$(BIN)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

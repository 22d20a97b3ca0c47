# The two commands are `make demo` and `make test`; both make what they need.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test dev check bench lock clean

$(BIN)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

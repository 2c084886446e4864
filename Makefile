# Every target sets up what it needs; `make venv` alone builds everything into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard src/logcore/*.pyx src/logcore/*.pxd) setup.py pyproject.toml


.PHONY: venv demo test crash lint bench soak debug clean

venv: $(VENV)/.built

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --group test --group lint
	touch $@

$(VENV)/.built: $(VENV)/.installed $(NATIVE)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# tests/crash is not finished (CHANGELOG.md, "Not yet"): `make crash`
test: venv
	$(BIN)/python -m pytest tests --ignore tests/crash

crash: venv
	$(BIN)/python -m pytest tests/crash

lint: venv
	$(BIN)/ruff check .
	PATH="$(abspath $(BIN)):$$PATH" cython-lint src/logcore
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest logcore --allowlist tools/stubtest.allow
	$(BIN)/python tools/check_layers.py

demo: venv
	$(BIN)/python -m pip install --quiet --group demo
	$(BIN)/python tools/demo.py

bench: venv
	$(BIN)/python -m pip install --quiet --group bench
	$(BIN)/python -m benchmarks

soak: venv
	$(BIN)/python -m pytest tests -m soak --timeout 3600

debug: venv
	$(BIN)/python tools/build_failpoints.py

clean:
	rm -rf build dist $(VENV) src/*.egg-info
	find src \( -name '*.so' -o -name '*.c' \) -delete

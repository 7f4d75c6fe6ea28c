# Everything below sets itself up: a virtual environment under .venv, from the pinned versions in constraints.txt.
# On Windows run it from Git Bash or WSL, or see CONTRIBUTING.md for the same commands without make.

SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
unexport PYTHONDONTWRITEBYTECODE # modules are compiled once, as in an installation

VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The first interpreter that is really there (a pyenv shim may not be) and in the supported range; PYTHON=… overrides.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	"$$python" -c '$(SUPPORTED)' >/dev/null 2>&1 && { echo "$$python"; break; }; done)

TO ?= safetensors
WORKERS ?= auto
N ?= 1000
SEED ?= 0
KILLS ?= 20
TIME ?= 300

.PHONY: help setup test property faults powercuts fuzz flips sanitize kill lint format migrate bench bench-all clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## the virtual environment, with everything pinned

$(READY): pyproject.toml setup.py constraints.txt formats/core/_strided.c
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11, 3.12 or 3.13 found; say PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c '$(SUPPORTED)' || { echo "make: $(PYTHON) is not Python 3.11, 3.12 or 3.13" >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip # before 25 its commands import re at each start
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --config-settings editable_mode=compat -e '.[dev]'
	@touch $@

test: $(READY) ## every test; ARGS="-k tar -x" goes to pytest, WORKERS=0 runs in one process
	@$(BIN)/python -m tests.parts
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

property: $(READY) ## random checkpoints by every lossless route, judged by torch; N=10000, SEED=0
	PROPERTY_N=$(N) PROPERTY_SEED=$(SEED) $(BIN)/python -m pytest -n $(WORKERS) tests/convert/test_property.py $(ARGS)

flips: $(READY) ## every single bit and every length of each container that has checksums; JOBS=2
	$(BIN)/python -m tests.flips --jobs $(or $(JOBS),1) --json benchmarks/results/flips.json

fuzz: $(READY) ## changed files of every container, judged by the containers' own libraries; TIME=600, TARGETS="zip tar", JOBS=2
	@$(BIN)/python -m tests.parts
	$(BIN)/python -m tests.fuzz.run --seconds $(TIME) --jobs $(or $(JOBS),1) $(if $(TARGETS),--targets "$(TARGETS)")

faults: $(READY) ## every write path under failing system calls and signals (strace); ARGS="--only npz --sample 50"
	@$(BIN)/python -m tests.parts
	$(BIN)/python -m tests.faults $(ARGS)
	$(BIN)/python -m tests.faults.chaos

powercuts: $(READY) ## every write path on an ext4 that loses its current at each write (root, FUSE); ARGS="--only npz"
	@$(BIN)/python -m tests.parts
	$(BIN)/python -m tests.powercuts $(ARGS)

sanitize: $(READY) ## the compiled function under AddressSanitizer and UndefinedBehaviorSanitizer (gcc)
	rm -f formats/core/_strided.*.so
	CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all" $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--config-settings editable_mode=compat --no-deps -e .
	@ls formats/core/_strided.*.so >/dev/null || { echo "make: formats/core/_strided.c could not be compiled" >&2; exit 1; }
	ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" PYTHONMALLOC=malloc \
		$(BIN)/python -m pytest tests/formats/core/test_strided.py tests/formats/core/test_packed.py $(ARGS); status=$$?; \
		rm -f formats/core/_strided.*.so $(READY); $(MAKE) setup; exit $$status

kill: $(READY) ## migrations killed at 20 random points and resumed, some of them to ONNX; KILLS=100, SEED=0
	KILLS=$(KILLS) KILL_SEED=$(SEED) $(BIN)/python -m pytest tests/convert/zoo/test_kill.py $(ARGS)

lint: $(READY) ## ruff, mypy --strict, the directions of imports, generated documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate_formats.py --check
	$(BIN)/python -m benchmarks.document --check

format: $(READY) ## put the source into its customary shape
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

migrate: $(READY) ## convert a whole tree: SRC=zoo DST=out [TO="safetensors pth"] [JOBS=2] [ARGS=…]; alone, a sample zoo under build/
ifdef SRC
	@test -n "$(DST)" || { echo "make: say where to, DST=folder" >&2; exit 2; }
	$(BIN)/convert migrate "$(SRC)" "$(DST)" $(foreach target,$(TO),--to $(target)) $(if $(JOBS),--jobs $(JOBS)) $(ARGS)
else
	$(BIN)/python -W ignore -m tests.sample_zoo build/zoo
	$(BIN)/convert migrate build/zoo build/zoo-$(firstword $(TO)) $(foreach target,$(TO),--to $(target)) $(if $(JOBS),--jobs $(JOBS)) $(ARGS)
endif

bench: $(READY) ## time and memory against cp and torch, beside what is to be reached; ARGS="--quick", ARGS="--case zip-500M-300"
	$(BIN)/python -m benchmarks.convert_speed --json build/bench/speed.json $(ARGS)

bench-all: $(READY) ## the same with every case, kept under benchmarks/results/; some 25 minutes, on a quiet machine
	$(BIN)/python -m benchmarks.convert_speed --all --json benchmarks/results/speed.json $(ARGS)

clean: ## remove what was built, keep the environment and downloads
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find convert formats tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove the environment and downloads too
	rm -rf $(VENV) .cache formats/core/_strided.*.so

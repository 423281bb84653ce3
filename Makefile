# Every target sets up what it needs; a fresh Debian with Python 3.11 and make is enough.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo
SLOW ?= tests
SOURCES := $(shell find bids_app workflows interfaces sodium -type f ! -name '*.pyc')
PACKAGES := $(addprefix sodiumprep.,bids_app workflows interfaces sodium)

# One thread per library: tests and demo spread over processes, and results repeat bit by bit.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS := 1
export NIPYPE_NO_ET := 1
export NO_ET := 1
export MPLBACKEND := Agg
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help venv bench demo screenshots test test-fast test-slow test-container test-lowest \
	test-latest lint lock licences clean

help:
	@echo 'make demo       simulate a cohort and process it (results in $(DEMO)/)'
	echo 'make test       what CI runs: lint, then all tests'
	echo 'make bench      speed and accuracy against other tools'
	echo 'make screenshots  of the report of the demo, into docs/ (needs Chromium and make demo)'
	echo 'make test-fast  unit, interface and graph tests'
	echo 'make test-container  build the image without an engine and run it (root, buildah, debootstrap)'
	echo 'make test-lowest, test-latest  fast tests with other versions than the locked ones'
	echo 'make lint       ruff, mypy, codespell, hadolint'
	echo 'make lock       write requirements.lock anew'
	echo 'make licences   write docs/licences.md anew'
	echo 'make clean      remove the virtual environment and what was built'

venv: $(VENV)/.installed

$(VENV)/.locked: requirements.lock
	@if [ -z '$(PYTHON)' ] || ! '$(PYTHON)' -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
		echo 'Python 3.11 to 3.13 is needed: apt-get install python3 python3-venv' >&2
		exit 1
	fi
	if ! '$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null; then
		if [ "$$(id -u)" != 0 ]; then
			echo 'The Python module venv is missing: apt-get install python3-venv' >&2
			exit 1
		fi
		echo '== installing python3-venv'
		apt-get update -qq
		apt-get install -qq -y python3-venv
	fi
	echo "== virtual environment with $$('$(PYTHON)' --version)"
	'$(PYTHON)' -m venv --clear $(VENV)
	echo '== installing the locked dependencies (takes a minute or two)'
	$(BIN)/python -m pip install --quiet -r requirements.lock
	touch $@

# A built wheel, not an editable install: tests then see what users get.
$(VENV)/.installed: $(VENV)/.locked pyproject.toml README.md LICENSE $(SOURCES)
	@echo '== building and installing the wheel'
	rm -rf build $(VENV)/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir $(VENV)/wheel .
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall $(VENV)/wheel/*.whl
	rm -rf build sodiumprep.egg-info
	touch $@

demo: venv
	@$(BIN)/python -m sodiumprep.bids_app.demo $(DEMO)

screenshots: venv
	@REPORT=$(DEMO)/derivatives/sub-04.html SCREENSHOTS=docs $(BIN)/pytest tests/browser

bench: venv
	@for case in operators iterative noise pvc; do
		echo "== bench/$$case.py"
		env -u OMP_NUM_THREADS $(BIN)/python bench/$$case.py
	done

lint: venv
	@echo '== ruff'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	echo '== mypy'
	$(BIN)/mypy -p sodiumprep.sodium
	echo '== codespell'
	$(BIN)/codespell
	echo '== hadolint'
	if [ -x $(BIN)/hadolint ]; then $(BIN)/hadolint Dockerfile; else echo 'not installed: skipped'; fi

test-fast: venv
	@echo '== unit, interface and graph tests, doctests'
	# neighbours stay in one process: what the tests of a file share is made once
	$(BIN)/pytest -n 2 --dist worksteal -m 'not slow' tests --pyargs $(PACKAGES)

test-slow: venv
	@echo '== whole runs'
	# by file, two at a time: each whole run takes one process; the short files come last
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -rA -m slow $(SLOW)

test-container: venv
	@echo '== the image'
	$(BIN)/pytest -rAs tests/container/check_image.py

test-lowest test-latest: test-%:
	@PYTHON='$(PYTHON)' tests/dependencies/run.sh $*

test: lint test-fast test-slow
	@echo '== all passed'

lock:
	@folder=$$(mktemp -d)
	'$(PYTHON)' -m venv "$$folder"
	"$$folder/bin/python" -m pip install --quiet 'setuptools >= 77' '.[tests,lint]'
	{
		echo '# The tested dependency set; written by make lock.'
		"$$folder/bin/python" -m pip freeze --all | grep -viE '^(pip|sodiumprep)[ =]'
	} > requirements.lock
	rm -rf "$$folder" build

licences: venv
	@$(BIN)/python tests/dependencies/licences.py

clean:
	@rm -rf $(VENV) build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache

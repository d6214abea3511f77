# Everything runs in .venv, which is made on demand. `make` alone lists the targets.

PYTHON ?=
TORCH = torch==2.13.0
SYSTEM = etcd-server etcd-client openssl iproute2 chromium chromium-driver

VENV = .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check
# Tests of whole programs wait most of the time: three at once suit two cores.
PYTEST = $(BIN)/python -m pytest -n 3 --dist worksteal

# A stamp in .venv says what has been installed there; .venv can be deleted at any time.
MADE = $(VENV)/.made
DEMO = $(VENV)/.installed-demo
DEV = $(VENV)/.installed-dev
FUZZ = $(VENV)/.installed-fuzz
TORCH_STAMP = $(VENV)/.installed-$(TORCH)

.DEFAULT_GOAL = help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test unit e2e fuzz check format format-check lint types clean torch system

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(DEMO)  ## watch a job lose an agent, gain one, and finish
	@$(BIN)/quorate demo

test: $(DEV) torch system  ## run every test
	@$(PYTEST)

unit: $(DEV)  ## run the quick tests: no whole programs, long simulations, torch, etcd, browser
	@$(PYTEST) -m "not browser and not e2e and not sim and not torch and not etcd"

e2e: $(DEV) torch system  ## run the tests of whole programs
	@$(PYTEST) -m e2e

fuzz: $(FUZZ)  ## look for inputs that break a promise, some seconds for each kind
	@$(BIN)/python -m tests.fuzz

check: format-check lint types test  ## what CI runs: format, lint, types, every test

format: $(DEV)  ## put the code into its format
	@$(BIN)/ruff format
	@$(BIN)/ruff check --select I --fix

format-check: $(DEV)
	@$(BIN)/ruff format --check

lint: $(DEV)  ## look for likely mistakes
	@$(BIN)/ruff check

types: $(DEV)  ## check the types
	@$(BIN)/mypy

system: $(MADE)  ## install etcd, Chromium, openssl, iproute2, which some tests need (as root, with apt-get)
	@etcd=$$(command -v "$${QUORATE_ETCD_BINARY_PATH:-etcd}"); \
	if [ -n "$$etcd" ] && command -v openssl >/dev/null 2>&1 && command -v ip >/dev/null 2>&1 \
	        && command -v chromium >/dev/null 2>&1 && command -v chromedriver >/dev/null 2>&1; then \
	    :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	    echo 'installing $(SYSTEM)'; \
	    { apt-get update && DEBIAN_FRONTEND=noninteractive \
	        apt-get install -y $(SYSTEM); } >$(VENV)/system.log 2>&1 \
	        || echo 'warning: $(SYSTEM) could not be installed ($(VENV)/system.log says why):' \
	            'the tests that need them are skipped' >&2; \
	    [ -n "$$etcd" ] || systemctl disable --now etcd >/dev/null 2>&1 || :; \
	else \
	    echo 'warning: etcd, Chromium, openssl or iproute2 is missing, the tests that need them are skipped:' \
	        'install them (on Debian or Ubuntu, as root: apt-get install $(SYSTEM))' >&2; \
	fi

clean:  ## delete .venv, caches and builds
	rm -rf $(VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache .fuzz build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE):
	@python=; \
	for name in $(or $(PYTHON),python3.11 python3 python3.12 python3.13); do \
	    if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        python=$$name; break; \
	    fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo 'quorate needs Python 3.11 or newer: install it, or name it: make PYTHON=/path/to/python3 ...' >&2; \
	    exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    echo "$$python cannot make virtual environments: install the rest of it" \
	        "(on Debian or Ubuntu, as root: apt-get install python$$version-venv), then try again." >&2; \
	    exit 1; \
	fi; \
	echo "making $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv $(VENV)
	@touch $@

$(DEMO): $(MADE) pyproject.toml
	@echo 'installing quorate'
	@$(PIP) install --quiet --editable '.[demo]'
	@touch $@

$(DEV): $(MADE) pyproject.toml
	@echo 'installing quorate and its development tools'
	@$(PIP) install --quiet --editable '.[dev]'
	@touch $@ $(DEMO)

$(FUZZ): $(DEV)
	@echo 'installing the fuzzer'
	@$(PIP) install --quiet --editable '.[fuzz]'
	@touch $@

torch: $(TORCH_STAMP)

# No file is made when torch cannot be had: the next run tries again.
$(TORCH_STAMP): $(MADE)
	@echo 'installing $(TORCH)'
	@if $(PIP) install --quiet '$(TORCH)' >$(VENV)/torch.log 2>&1; then \
	    touch $@; \
	else \
	    echo 'warning: $(TORCH) could not be installed ($(VENV)/torch.log says why):' \
	        'the tests that need it are skipped' >&2; \
	fi

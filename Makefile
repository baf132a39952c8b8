# make demo        the main job on this machine, without servers or root; make demo-down stops what it started
# make test        the tests of every room: no servers but this machine's own git and sshd
# make test-all    those, and the tests on the real parts: S3 server, Consul cluster, stretcher (tests/real, tests/faults);
#                  a machine that can't have these leaves their tests out, loudly
# make faults      every fault at every point of a deployment (tests/faults), of which make test-real runs a few
# make check       all that CI does
# make audit       known vulnerabilities of the packages that the tool and its tests use; part of make check
# make lock        the lock files anew, after a change to pyproject.toml; LOCK_ARGS=--upgrade takes the newest versions
# make docs        docs/settings.md from the settings' model, docs/json.md from the types of the documents
# make site        the documentation as a website, in var/site; fails on a broken link
# make package     sdist and wheel in dist/, checked by twine, installed and tried in a clean environment:
#                  make package PACKAGE_ARGS='--python python3.12 --python python3.13'
# make bench       measures on real parts, beside their floors: make bench BENCH_ARGS='--quick small'; see --help
# make soak        many deploys in a row, large archives, loud and silent builds: make soak SOAK_ARGS=--quick; see --help
# make bare        make demo, make test and .ci/run on a Debian of its own with Python, git and make alone (needs root):
#                  make bare BARE_ARGS=demo; see --help
# make hosts       an app server's whole life on a Debian of its own with systemd as pid 1 (needs root and systemd-nspawn):
#                  make hosts HOSTS_ARGS='--suite trixie'; see --help
# make playground  the real sshd, S3 server, Consul cluster and stretcher on this machine; make playground-down stops it
#
# Needs Python 3.11 or newer (PYTHON=python3.12 names another one), git and make. The rest is installed into .venv and .tools.

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STATE ?= var/playground
TOOLS ?= .tools
PYTEST_ARGS ?=
PACKAGE_ARGS ?=
BENCH_ARGS ?=
SOAK_ARGS ?=
BARE_ARGS ?=
HOSTS_ARGS ?=
LOCK_ARGS ?=

.PHONY: help venv demo demo-down parts test test-real test-all faults lint audit check lock docs site package bench soak bare hosts playground playground-down \
  playground-status clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

# What was locked, and nothing else: exact versions, whose files have these hashes. $(call install,NAME) takes
# requirements/NAME.txt, then this checkout.
PIP := -m pip install --quiet --disable-pip-version-check
define install
$(BIN)/python $(PIP) --require-hashes --requirement requirements/$(1).txt
$(BIN)/python $(PIP) --no-deps --no-build-isolation --editable .
endef

# The stamp is newer than pyproject.toml and the lock file, or the environment is made up to date.
$(VENV)/.stamp: pyproject.toml requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call install,dev)
	touch $@

venv: $(VENV)/.stamp

# Only what the tool itself needs.
$(VENV)/.run-stamp: pyproject.toml requirements/run.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call install,run)
	touch $@

demo: $(VENV)/.run-stamp
	@$(BIN)/python examples/demo.py

demo-down: $(VENV)/.run-stamp
	@$(BIN)/python examples/demo.py down

parts: venv
	$(BIN)/python -m deploytool.playground parts

# More processes than the two cores that CI has: tests also wait, for hosts and for limits. In the order of tests/conftest.py.
# Byte code is written, as wherever people install the tool.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

test: venv
	$(PYTEST) --ignore tests/real --ignore tests/faults $(PYTEST_ARGS)

test-real: venv
	$(PYTEST) $(PYTEST_ARGS) tests/real tests/faults

test-all: test test-real

# Each process has a playground of its own, and mostly waits: for limits, and for what is struck to come back.
faults: venv
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 4 --dist load --maxschedchunk 1 --faults tests/faults $(PYTEST_ARGS)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --cache-dir var/import_linter
	$(BIN)/mypy
	$(BIN)/vermin --quiet --no-tips --violations -t=3.8- deploytool/worker deploytool/text
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows examples/ci/github-actions.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.gitlab-ci examples/ci/gitlab-ci.yml
	@set -e; for script in templates/host/*.sh templates/app-server/*.sh; do \
	  test -e "$$script" || continue; \
	  echo "shellcheck $$script"; $(BIN)/shellcheck --shell=sh "$$script"; \
	  if command -v dash >/dev/null; then dash -n "$$script"; fi; \
	done

# Fails on what is found. Where no vulnerability service can be reached, a line says so, and that is no failure.
audit: venv
	@$(BIN)/python tools/audit.py

check: lint audit package site parts test-all

# uv finds what fits every platform and Python at once; it is locked itself, and in an environment of its own.
.tools/uv/.stamp: requirements/lock.txt
	test -x .tools/uv/bin/python || $(PYTHON) -m venv .tools/uv
	.tools/uv/bin/python $(PIP) --require-hashes --requirement requirements/lock.txt
	touch $@

lock: venv .tools/uv/.stamp
	PATH="$(CURDIR)/.tools/uv/bin:$$PATH" $(BIN)/python -m tools.lock $(LOCK_ARGS)

# Sphinx, and what builds and checks packages: each in an environment of its own, so that the others stay small.
$(TOOLS)/site/.stamp $(TOOLS)/package/.stamp: $(TOOLS)/%/.stamp: requirements/%.txt
	test -x $(TOOLS)/$*/bin/python || $(PYTHON) -m venv $(TOOLS)/$*
	$(TOOLS)/$*/bin/python $(PIP) --require-hashes --requirement requirements/$*.txt
	touch $@

docs: venv
	$(BIN)/python -m deploytool.settings.reference >docs/settings.md
	$(BIN)/python -m deploytool.cli.json_page >docs/json.md

site: $(TOOLS)/site/.stamp
	$(TOOLS)/site/bin/python -m sphinx --quiet --fail-on-warning --keep-going --conf-dir tools/site \
	  --doctree-dir var/site-doctrees . var/site
	@echo '<meta http-equiv="refresh" content="0; url=docs/index.html">' >var/site/index.html
	@echo "the site is in var/site: open var/site/index.html"

package: $(TOOLS)/package/.stamp
	$(TOOLS)/package/bin/python tools/package.py $(PACKAGE_ARGS)

$(VENV)/.bench-stamp: pyproject.toml requirements/bench.txt | $(VENV)/.stamp
	$(call install,bench)
	touch $@

# CAPISTRANO_STRETCHER=/path/to/a/checkout measures that peer, too.
# Byte code is written, as wherever people install the tool.
bench: $(VENV)/.bench-stamp parts
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m benchmarks $(BENCH_ARGS)

# Ends with a table; fails where a bound does not hold.
soak: venv parts
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m benchmarks.soak $(SOAK_ARGS)

# From HEAD: what is not committed is not in it.
bare: venv
	$(BIN)/python -m tools.bare $(BARE_ARGS)

hosts: venv
	@$(BIN)/python -m tools.hosts $(HOSTS_ARGS)

playground: venv
	@$(BIN)/python -m deploytool.playground up --state $(STATE)

playground-down: venv
	@$(BIN)/python -m deploytool.playground down --state $(STATE)

playground-status: venv
	@$(BIN)/python -m deploytool.playground status --state $(STATE)

clean:
	@if test -x $(BIN)/python; then $(BIN)/python -m deploytool.playground down --state $(STATE); fi
	rm -rf $(VENV) .tools var build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis config/playground.yml
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

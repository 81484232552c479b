# Every target makes the environment it needs, once, and again when pyproject.toml has changed.
#
#   make test                                       with python3, in .venv
#   PYTHON=/path/to/python3.12 make test            with another interpreter, in .venv-3.12
#   JAX="jax==0.10.0 jaxlib==0.10.0" make test      with this JAX, in .venv-jax0.10.0

PYTHON ?= python3
JAX ?=
WORKERS ?= 2
N ?= 2000
FIRST ?= 1000
GO_ON ?=
TESTS ?=
# Programs, most of which run once, are compiled in a hurry.
HASTY := --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true
# Tests of what XLA makes of programs. All others, of what is found and chosen, compile in a hurry in `test-all`, too.
OF_XLA := $(addprefix tests/whole/test_,scenarios.py fuzz.py compose.py configs.py custom_rules.py)
COVERAGE := --cov --cov-append --cov-report= --cov-fail-under=0
PARTS := tests/analysis tests/call tests/coloring tests/execute tests/trace

ifeq ($(PYTHON),python3)
  SUFFIX :=
else
  SUFFIX := -$(shell "$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
endif
ifneq ($(strip $(JAX)),)
  ifeq ($(findstring ==,$(firstword $(JAX))),)
    $(error JAX="$(JAX)" must begin with an exact version, such as JAX="jax==0.10.0 jaxlib==0.10.0")
  endif
  SUFFIX := $(SUFFIX)-$(subst ==,,$(firstword $(JAX)))
endif
VENV := .venv$(SUFFIX)
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo check test test-all slow mutants fuzz lint notebooks bench choices calibrate clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile
	@echo 'Elsewhere than in .venv: PYTHON=/path/to/python3.12 make test, JAX="jax==0.10.0 jaxlib==0.10.0" make test'

demo: $(VENV)/.has-demo ## Train LeNet-5 on real digits, explain its Jacobians, draw lenet_jacobian.png
	$(RUN) -m jaxobian.demo

check: $(VENV)/.has-dev ## Test the parts one by one, in less than a minute
	XLA_FLAGS="$$XLA_FLAGS $(HASTY)" $(RUN) -m pytest -n $(WORKERS) -m "not slow and not devices" $(PARTS) $(TESTS)

test: $(VENV)/.has-dev ## Run the tests and the doctests but the slow ones, on WORKERS=2 processes
	XLA_FLAGS="$$XLA_FLAGS $(HASTY)" $(RUN) -m pytest -n $(WORKERS) -m "not slow and not devices" $(TESTS)

test-all: $(VENV)/.has-dev ## Run every test, compiled as users have it and on 8 devices, too; and what they cover
	$(RUN) -m coverage erase
	$(RUN) -m pytest -n $(WORKERS) -m "not devices" $(OF_XLA) $(COVERAGE) $(TESTS) || [ $$? = 5 ]
	XLA_FLAGS="$$XLA_FLAGS $(HASTY)" $(RUN) -m pytest -n $(WORKERS) -m "not devices" $(addprefix --ignore=,$(OF_XLA)) $(COVERAGE) $(TESTS) || [ $$? = 5 ]
	XLA_FLAGS="$$XLA_FLAGS --xla_force_host_platform_device_count=8" $(RUN) -m pytest -m devices --cov --cov-append $(TESTS)

slow: $(VENV)/.has-dev ## Measure all tests, and write down anew which are slow: tests/slow.txt
	XLA_FLAGS="$$XLA_FLAGS $(HASTY)" $(RUN) -m pytest -n $(WORKERS) -m "not devices" --write-slow

mutants: $(VENV)/.has-dev ## Plant 32 faults in copies of src, one at a time: the tests must catch them
	$(RUN) tests/mutants.py

fuzz: $(VENV)/.has-dev ## Compare N=2000 random programs with JAX run op by op
	JAXOBIAN_FUZZ=$(N) JAXOBIAN_FUZZ_FIRST=$(FIRST) JAXOBIAN_FUZZ_GO_ON=$(GO_ON) $(RUN) -m pytest tests/whole/test_fuzz.py

lint: $(VENV)/.has-dev ## Check style, types, and who imports whom
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright --pythonpath $(RUN)
	$(VENV)/bin/lint-imports

notebooks: $(VENV)/.has-dev ## Execute the notebooks, storing nothing
	$(RUN) -m pytest --nbmake --nbmake-timeout=600 notebooks

bench: $(VENV)/.has-bench ## Time jaxobian beside jacfwd, jacrev and its peers
	$(RUN) benchmarks/run.py
	$(RUN) benchmarks/first_call.py
	$(RUN) benchmarks/peers.py
	$(RUN) benchmarks/sparse.py
	$(RUN) benchmarks/quantities.py

choices: $(VENV)/.has-dev ## Write down anew what is chosen for each scenario: tests/choices.txt, compared by the tests
	$(RUN) tests/choices.py

calibrate: $(VENV)/.has-dev ## Measure the cost model's constants on this machine and rewrite them
	$(RUN) benchmarks/calibrate.py

clean: ## Remove every environment and cache
	rm -rf .venv .venv-* build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# An environment knows the folder that it was made for: a copied or moved one would test the code of the other folder.
ifneq ($(shell cat "$(VENV)/.made-in" 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/.made-in
endif

$(VENV)/.made-in:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'jaxobian needs Python 3.11 or newer; PYTHON=$(PYTHON) is older, or does not run.' >&2; \
	  echo 'Name another: PYTHON=/path/to/python3.12 make $(MAKECMDGOALS)' >&2; exit 1; }
	@test ! -e $@ || rm -rf $(VENV)
	"$(PYTHON)" -m venv $(VENV)
	@echo '$(CURDIR)' > $@

$(VENV)/.has-%: pyproject.toml $(VENV)/.made-in
	@echo "installing jaxobian[$*] $(JAX) in $(VENV), which takes a minute or two the first time"
	@$(RUN) -m pip install -qq --disable-pip-version-check --editable '.[$*]' $(JAX)
	@touch $@

$(VENV)/.has-bench: $(VENV)/.has-dev

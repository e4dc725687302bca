# Two commands need nothing but Python 3.11: `make identify` and `make test`.
VENV   ?= .venv
PYTHON ?= $(shell for p in python3.11 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
EXAMPLE ?= examples/rutile_TiO2.cif
FIGURE ?= identify.png

PY   := $(VENV)/bin/python
SPEC := settings.ini setup.py pyproject.toml

.PHONY: help identify test readme export docs wheel clean

help:      ## show this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

identify: $(VENV)/.installed  ## rank the space groups of a shipped crystal and draw the figure
	$(VENV)/bin/msdn identify $(EXAMPLE) --plot $(FIGURE)
	@echo "The figure is in $(FIGURE)."

test: $(VENV)/.installed-dev  ## everything that CI runs
	$(PY) tests/check_house.py

export: $(VENV)/.installed-dev  ## write the library from the notebooks
	$(VENV)/bin/nbdev-clean
	$(VENV)/bin/nbdev-export

readme: $(VENV)/.installed-dev  ## render README.md from nbs/index.ipynb
	$(PY) tests/readme.py

docs: $(VENV)/.installed-dev  ## build the site into _docs (wants Quarto)
	@command -v quarto >/dev/null || { echo "The site wants Quarto: install it, then run make docs again."; exit 1; }
	PATH="$(abspath $(VENV))/bin:$$PATH" nbdev-docs

wheel: $(VENV)/.installed-dev  ## build the wheel into dist
	$(PY) -m pip wheel . --no-deps --wheel-dir dist

clean:     ## remove what the builds left, keep the environment
	rm -rf build dist _proc _docs *.egg-info nbs/nbdev.yml

# The stamps are renewed when the metadata change; the dev environment serves both commands.
$(VENV)/.installed: $(SPEC)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is wanted: install it, or name it with make PYTHON=..."; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -e .
	touch $@

$(VENV)/.installed-dev: $(SPEC)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is wanted: install it, or name it with make PYTHON=..."; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -e '.[dev]'
	touch $(VENV)/.installed $@

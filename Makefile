# make demo | make test | make unit | make check | make help. Needs Python >= 3.11 and nothing else; all else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO ?= runs/demo

.PHONY: help install demo test unit kills chaos intruders link check docs bench federation clean

help: ## list what make can do
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST)

install: $(STAMP) ## set up the virtual environment .venv from pinned versions

demo: $(STAMP) ## run the main job on simulated sites; ends in a table and a report
	$(BIN)/sst demo --out $(DEMO)

test: $(STAMP) ## run all tests
	$(BIN)/python -m pytest -q

unit: $(STAMP) ## run the unit tests alone, in less than a minute
	$(BIN)/python -m pytest -q -m unit

kills: $(STAMP) ## kill the preparation of scans at 20 random moments, and compare
	SST_KILLS=20 $(BIN)/python -m pytest -q tests/client/test_killed.py

chaos: $(STAMP) ## kill processes of real federations at 30 random moments, and compare; an hour
	SST_CHAOS=30 $(BIN)/python -m pytest -q -s tests/live/test_chaos.py

intruders: $(STAMP) ## let strangers, thieves and liars at a real federation, with 10,000 random messages
	SST_INTRUDERS=10000 $(BIN)/python -m pytest -q -s tests/live/test_intruders.py

link: $(STAMP) ## run a real federation whose sites are behind bad lines, one of them cut for a minute
	SST_LINK=1 $(BIN)/python -m pytest -q -s tests/live/test_link.py

check: $(STAMP) ## check format, lint and types
	scripts/check

docs: $(STAMP) ## build the documentation site into build/docs, without a warning or not at all
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(STAMP) ## compare the speed of the parts with straightforward versions
	$(BIN)/python benchmarks/speed.py --out runs/bench.json

federation: $(STAMP) ## measure what federating costs: the hub's memory, and time beside the same steps without it
	$(BIN)/python benchmarks/federation.py

clean: ## remove the virtual environment and the caches; runs stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info

# torch goes first and alone, so that nothing else can choose another build of it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"error: Python {v} is too old: 3.11 or newer is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==$(shell sed -n 's/^torch==//p' constraints.txt)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,docs]'
	@touch $@

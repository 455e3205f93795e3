# make demo | make test | make unit | make check | make help. Needs Python >= 3.11 and nothing else; all else goes into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet
TORCH := torch==$(shell sed -n 's/^torch==//p' constraints.txt)
LOCK ?= requirements-dev.lock
NNUNET := nnunetv2==2.8.1 acvl-utils==0.2.6 batchgenerators==0.25.5 blosc2==4.14.1 lazy-loader==0.6 ndindex==1.10.1 \
	numexpr==2.14.2 scikit-image==0.26.0 tifffile==2026.3.3
BIDS_VALIDATOR := bids-validator-deno==3.0.2 deno==2.9.8
DEMO ?= runs/demo

.PHONY: help install demo test unit kills chaos intruders link secure check docs bench federation lock sbom wheel audit validate clean

help: ## list what make can do
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST)

install: $(STAMP) ## set up the virtual environment .venv from pinned versions

demo: $(STAMP) ## run the main job on simulated sites; ends in a table and a report
	$(BIN)/sst demo --out $(DEMO)

test: $(STAMP) ## run all tests, in two processes
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

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

secure: $(STAMP) ## run a real federation of three sites with secure sums, and compare with one in the clear
	SST_SECURE=1 $(BIN)/python -m pytest -q -s tests/live/test_secure.py

check: $(STAMP) ## check format, lint and types
	scripts/check

docs: $(STAMP) ## build the documentation site into build/docs, without a warning or not at all
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(STAMP) ## compare the speed of the parts with straightforward versions
	$(BIN)/python benchmarks/speed.py --out runs/bench.json

federation: $(STAMP) ## measure what federating costs: the hub's memory, and time beside the same steps without it
	$(BIN)/python benchmarks/federation.py

validate: $(STAMP) build/validate/.installed ## hold exports and generated data against the validators of MONAI, ONNX, nnU-Net and BIDS; needs the network
	build/validate/bin/python scripts/validate.py --out build/validate/work

lock: $(STAMP) ## write the lock files anew from constraints.txt; needs the network
	scripts/lock

sbom: $(STAMP) ## list what a hub or a site runs in build/sbom.json (CycloneDX)
	$(BIN)/python scripts/sbom.py build/sbom.json

wheel: $(STAMP) ## build a wheel, enough to run a hub or a site without this source tree, in build/wheel
	rm -rf build/wheel build/lib
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel .

audit: build/audit/bin/pip-audit ## look up known vulnerabilities of all pinned versions; needs the network
	build/audit/bin/pip-audit --strict --progress-spinner off --disable-pip --no-deps --requirement constraints.txt

clean: ## remove the virtual environment and the caches; runs stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info

# Of its own, so that what is looked at is not changed by the tool that looks.
build/audit/bin/pip-audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet pip-audit==2.10.1

# The validators of nnU-Net and BIDS and what they need, beside the packages of $(VENV): the rest of what nnU-Net asks for is not used.
build/validate/.installed: $(STAMP)
	$(PYTHON) -m venv build/validate
	$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
		> "$$(build/validate/bin/python -c 'import site; print(site.getsitepackages()[0])')/project.pth"
	build/validate/bin/python -m pip install --quiet --no-deps $(NNUNET) $(BIDS_VALIDATOR)
	@touch $@

# Every file is held against its SHA-256 in the lock file; `make install LOCK=` does without, for an index that has
# other builds than the public one. torch is not in it: it goes alone, so that nothing else chooses its build, the
# machine's index does (CPU or GPU).
$(STAMP): pyproject.toml constraints.txt $(LOCK)
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and f"error: Python {v} is too old: 3.11 or newer is needed; name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(if $(LOCK),$(PIP) --no-deps --require-hashes -r $(LOCK))
	$(PIP) -c constraints.txt $(TORCH)
	$(PIP) $(if $(LOCK),--no-deps --no-build-isolation -e .,-c constraints.txt -e '.[dev,docs,dicom,export,strip]')
	$(BIN)/python -m pip check
	@touch $@

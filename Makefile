# make table | make test | make lint: each sets up the environment in .venv first. Programs are called
# as modules: a program's first line names its interpreter, which not every path allows.

PYTHON ?= python3
CORES ?= $(shell nproc)
READY := .venv/ready
UV := VIRTUAL_ENV=.venv .venv/bin/python -m uv
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help table test quick lint types hooks audit bench environment lock bundle unpack

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "CORES=$(CORES): how many cores table and test use"

# record: DVC also has to learn that nothing was to do.
table: $(READY) ## build results/table.csv and results/comparison.html
	python -m snakemake --cores "$(CORES)"
	python -m st record

# As many tests at once as there are cores; most of them wait for processes to start.
test: $(READY) ## run all tests
	python -m pytest -n $(CORES) --dist worksteal

quick: $(READY) ## run the tests without the slow ones
	python -m pytest -n $(CORES) --dist worksteal -m "not slow"

lint: $(READY) types ## check format, style and types
	python -m ruff format --check .
	python -m ruff check .
	python -m snakefmt --check Snakefile workflow
	python -m snakemake --lint

types: $(READY) ## check types with mypy
	python -m mypy

hooks: $(READY) ## check format and style before each commit of this clone
	python -m pre_commit install

audit: $(READY) ## look for known vulnerabilities of the pinned packages (needs the network)
	python -m pip_audit --requirement requirements.lock --disable-pip --strict --progress-spinner off

# torchdistill needs nothing that is not locked, apart from a compiler that only its installation uses.
bench: $(READY) ## compare the training loop's speed with others'
	$(UV) pip install --no-deps --group bench
	python benchmarks/train.py

environment: $(READY) ## create .venv from requirements.lock

# For a machine without a network; docs/airgapped.md. THERE_PYTHON and THERE_PLATFORM: what is there.
bundle: $(READY) ## pack all for a machine without a network: docs/airgapped.md
	python tools/bundle.py $(if $(THERE_PYTHON),--python "$$THERE_PYTHON") \
	  $(if $(THERE_PLATFORM),--platform "$$THERE_PLATFORM") $(if $(HAVE),--have "$$HAVE") \
	  $(foreach path,$(DATA),--data '$(path)') bundle

unpack: $(READY) ## take over the results that such a machine sent: FROM=...
	python tools/airgap.py unpack "$$FROM"

# Every package is pinned with its hashes, uv's own among them: pip installs it, it the others.
$(READY): requirements.lock pyproject.toml
	@"$(PYTHON)" -c "import sys; sys.exit(sys.version_info < (3, 11))" \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	"$(PYTHON)" -m venv --clear .venv
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
	$(UV) pip install --require-hashes --compile-bytecode -r requirements.lock
	$(UV) pip install --no-deps --no-build-isolation --editable .
	touch $@

# The newest versions that fit pyproject.toml. Names no index and no host.
lock: $(READY) ## pin the newest versions of all packages (needs the network)
	$(UV) pip compile pyproject.toml --group dev --extra export --universal --python-version 3.11 \
	  --upgrade --generate-hashes --no-annotate --no-header --quiet --output-file requirements.lock

# The picture in the README: the rules, without the arrows that others imply.
docs/dag.svg: Snakefile workflow/rules/*.smk | $(READY)
	python -m snakemake --rulegraph dot | tred | dot -Grankdir=LR -Tsvg > $@

PYTHON ?= python3
VENV := .venv/bin
LOCK = $(VENV)/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev data train report test torture lint format bench screenshots lock audit tensorboard new rename update clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

setup:  ## create .venv and install what training needs (skipped when the lock is unchanged)
	@$(PYTHON) scripts/setup.py requirements.lock

setup-dev:  ## the same, with the tools for tests and linting
	@$(PYTHON) scripts/setup.py requirements-dev.lock

data: setup  ## download and verify Fashion-MNIST
	@$(VENV)/python scripts/get_data.py $(ARGS)

train: setup  ## train the default experiment; overrides: make train ARGS="model=mlp trainer.max_epochs=3"
	$(VENV)/python train.py $(ARGS)

report: setup  ## make the page of a run again: make report RUN=outputs/train/<run>
	@$(VENV)/python scripts/report.py "$(RUN)"

test:  ## run the tests; what they need of the system is installed where that asks for no password
	@$(PYTHON) scripts/system_packages.py
	@$(MAKE) --no-print-directory setup-dev
	$(VENV)/python -m pytest $(ARGS)

torture: setup-dev  ## kill, starve, mislead it in hundreds of ways (half an hour); some: make torture ARGS=kills
	$(VENV)/python scripts/torture.py $(ARGS)

lint: setup-dev  ## check style, types, and which room imports which
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/lint-imports --no-cache

format: setup-dev  ## rewrite the code in the project's style
	$(VENV)/ruff format .
	$(VENV)/ruff check --fix .

bench: setup  ## run the benchmarks of a minute or two (others by name: ARGS=step), tables in benchmarks/results
	$(VENV)/python benchmarks/run.py $(ARGS)

lock: setup  ## resolve pyproject.toml into the hash-pinned locks (add ARGS=--upgrade for newer versions)
	$(LOCK) $(ARGS) --extra dev --output-file requirements-dev.lock
	$(LOCK) --constraint requirements-dev.lock --output-file requirements.lock

tensorboard: setup  ## show all runs in TensorBoard
	$(VENV)/tensorboard --logdir outputs --samples_per_plugin images=100 $(ARGS)

audit: setup-dev  ## look the locked packages up in the list of known weaknesses (needs the network)
	$(VENV)/python -m uv tool run pip-audit@2.10.1 --strict --require-hashes --disable-pip --progress-spinner off \
		--requirement requirements-dev.lock

screenshots: setup-dev  ## make the README's pictures from a run (ARGS=RUN; default: the latest in outputs/train)
	$(VENV)/python scripts/screenshots.py $(ARGS)

new:  ## start a project of its own: make new NAME=leaf_sorter DEST=../leaf_sorter
	@$(PYTHON) scripts/new_project.py "$(NAME)" "$(DEST)" --without "$(WITHOUT)"

rename: setup  ## make this clone yours: make rename NAME=my_project [WITHOUT="experiment/best_gpu data/kmnist"]
	@$(VENV)/python scripts/rename.py "$(NAME)" --without "$(WITHOUT)"

update:  ## bring later changes of the template into a project made from it
	@$(PYTHON) scripts/update.py $(if $(SOURCE),--source "$(SOURCE)") $(ARGS)

clean:  ## delete outputs and caches (keeps .venv and data)
	rm -rf outputs .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# Two commands: `make run` shows what this project does, `make test` checks it.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c '$(SUITABLE)' 2>/dev/null && echo $$p && break; done)
SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
VENV ?= .venv
BIN := $(VENV)/bin
RESULTS ?= out
SUITE ?= smoke
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); [ $$n -gt 4 ] && echo 4 || echo $$n)
# Omniglot beside the clone is used where there is some and $$BENCH_DATA does not say otherwise.
ifndef BENCH_DATA
ifneq ($(wildcard ../shared/data/omniglot),)
export BENCH_DATA := $(CURDIR)/../shared/data
endif
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The environment is made of this project's pins alone; where packages come from is the user's to say.
unexport PIP_CONSTRAINT PIP_REQUIREMENT PIP_NO_DEPS PIP_REQUIRE_HASHES PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER

.DEFAULT_GOAL := help
.PHONY: help run test test-long test-search lint format learn2learn benchmark simulation gpu-check tables tables-check pages \
	memory-pictures regressions clean

help: ## list all targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

run: $(VENV)/.run ## install, run the suite `smoke` into out/, end with a table, a picture and the next command
	@$(BIN)/bench run $(SUITE) --results "$(RESULTS)" --workers $(WORKERS)
	@echo "(bench is $(BIN)/bench here; put it on your path: source $(BIN)/activate)"

test: $(VENV)/.dev ## install and run the tests (fifteen to thirty minutes on two cores)
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

test-long: $(VENV)/.dev ## the tests marked long: minutes to hours
	$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

test-search: $(VENV)/.dev ## the tests of properties on new random examples, which `make test` keeps the same
	$(BIN)/python -m pytest -n $(WORKERS) --hypothesis-profile=search -m "hypothesis and not long" $(PYTEST_ARGS)

lint: $(VENV)/.dev ## ruff (format and check) and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev ## let ruff format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

learn2learn: $(VENV)/.learn2learn ## install the package learn2learn, for its methods and their tests (needs a C compiler)

# Rounds enough for a median and quartiles, within fifteen minutes on two cores; -vv prints what runs.
BENCHMARK_ARGS ?= --benchmark-warmup=on --benchmark-min-rounds=9 --benchmark-max-time=1.5 --benchmark-disable-gc
benchmark: $(VENV)/.dev ## measure speed and peak memory, with nothing else running, into results/benchmarks
	@mkdir -p .bench
	$(BIN)/python -m pytest tests/benchmarks -vv --durations=20 --benchmark-only $(BENCHMARK_ARGS) \
		--benchmark-columns=median,iqr,min,rounds --benchmark-json=.bench/benchmark.json $(PYTEST_ARGS)
	$(BIN)/python -m bench.benchmarks .bench/benchmark.json results
	$(BIN)/bench tables

simulation: $(VENV)/.run ## simulate how often intervals hold the truth (two minutes), into results/simulations
	$(BIN)/python -m bench.coverage results
	$(BIN)/bench tables

# Runs with the Python at hand where there is no environment of ours: a machine with a GPU has its own torch and Triton.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
DEVICE ?= cuda
gpu-check: ## check and measure the GPU kernels in nine minutes; DEVICE=cpu rehearses it
	@PYTHONPATH="$(CURDIR)" "$(GPU_PYTHON)" -m bench.gpu_check --device $(DEVICE)

tables: $(VENV)/.run ## write results/tables anew from the committed records
	$(BIN)/bench tables

tables-check: $(VENV)/.run ## fail where a committed table is not what the records say
	$(BIN)/bench tables --check

# The view of it that README.md shows.
VIEW := \#suite=memories
pages: $(VENV)/.run ## write results/report.html from the committed records
	$(BIN)/bench report --out results/report.html
	@browser=$$(command -v chromium || command -v google-chrome) || { echo "no browser: the picture stays as it is"; exit 0; }; \
		"$$browser" --headless --no-sandbox --hide-scrollbars --force-prefers-color-scheme=light --window-size=1280,1760 \
		--screenshot=results/pictures/report.png "file://$(CURDIR)/results/report.html$(VIEW)" >/dev/null 2>&1 && \
		echo "wrote results/pictures/report.png"

# The pictures of mann/README.md: name, record, episode, which of its pictures.
MEMORY_PICTURES := ntm-recall:5eabcfc16bb9:0:episode0-weights dnc-copy:5db87f602402:0:episode0-weights \
	sam-copy:ecb3840d2d7f:0:episode0-weights mann-glyphs:c4b428840238:0:episode0-reads \
	dnc-probe:6ef98f1e1f79:0:forgetting
memory-pictures: $(VENV)/.run ## draw the pictures of mann/README.md anew; trains what has no checkpoint here (half an hour)
	@for each in $(MEMORY_PICTURES); do IFS=:; set -- $$each; unset IFS; \
		$(BIN)/bench inspect $$2 --again --episode $$3 --out out/inspect/$$1 >/dev/null || exit; \
		cp out/inspect/$$1/$$4.png results/pictures/memory-$$1.png || exit; \
		echo "wrote results/pictures/memory-$$1.png"; done

regressions: $(VENV)/.run ## run a suite anew and tell which numbers moved beyond noise since the committed records
	@rm -rf out/anew
	@$(BIN)/bench run $(SUITE) --results out/anew --workers $(WORKERS) --no-picture
	@$(BIN)/bench diff results out/anew

clean: ## delete the environment and make run's results
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.run: pyproject.toml constraints.txt
	@"$(PYTHON)" -c '$(SUITABLE)' 2>/dev/null || { echo "error: $(or $(PYTHON),no python here) is not Python 3.11," \
		"3.12 or 3.13; install one, or name it: make run PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	@echo "installing pinned dependencies into $(VENV); torch is large, so this can take minutes"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "installing what tests and checks need into $(VENV)"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Its source archive holds C of an older Python, which is made anew; and it asks for packages that are not needed here.
$(VENV)/.learn2learn: $(VENV)/.dev
	@echo "building learn2learn into $(VENV)"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[learn2learn]'
	@$(BIN)/python -m pip install --quiet --no-deps --use-pep517 --config-settings=--build-option=build_ext \
		learn2learn==0.2.0
	@touch $@

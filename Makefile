# The commands of this project, for people and for CI alike. `make` alone lists them.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

VENV := .venv
PY := $(VENV)/bin/python
SHROTA := $(VENV)/bin/shrota

# The first interpreter that is new enough; `make install PYTHON=/path/to/python3.12` names another.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v "$$name" && break; done)

PORT ?=
MODEL_DIR ?=
SHIPPED := model_artifacts/whisper-base-mr
CONFIG ?= train/configs/whisper-base-mr.yaml
MANIFEST ?= data/mr/test-everyday.jsonl
SCORES ?= runs/scores.json
ARGS ?=
WORKERS ?= 2
IMAGE ?= shrota:$(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

# Voices and text for `make data`, and an ffmpeg and a browser for the tests. Serving needs none of these.
SYSTEM_PACKAGES := ffmpeg espeak-ng festival festival-mr festvox-mr-nsk \
	libreoffice-l10n-mr firefox-esr-l10n-mr tesseract-ocr tesseract-ocr-mar chromium \
	$(shell command -v npm >/dev/null || echo npm)

##@ Serve

.PHONY: serve
serve: install-serve ## serve the shipped Marathi adapter on PORT (8080), first creating what is missing
	$(SHROTA) serve $(addprefix --model-dir ,$(or $(MODEL_DIR),$(NOT_NAMED_ELSEWHERE))) $(addprefix --port ,$(PORT))

# A flag overrides variables and a file of settings, so none is passed where these name a model.
NOT_NAMED_ELSEWHERE = $(if $(SHROTA_MODEL_DIR)$(SHROTA_BASE_MODEL)$(SHROTA_CONFIG),,$(SHIPPED))

.PHONY: page
page: system-deps ## build the page at / from page/ into serve/http/page/assets, which is committed
	cd page && npm ci && npm run build

.PHONY: image
image: ## build the container image that serves and trains on SageMaker
	docker build --tag $(IMAGE) .

##@ Train

.PHONY: data
data: system-deps install ## synthesise a Marathi corpus in data/mr, an hour and a half on two cores; resumes where it stopped
	$(SHROTA) data --output-dir data/mr $(ARGS)

.PHONY: train
train: install ## train, evaluate and export with CONFIG, overridden by ARGS="--key value"; resumes where it stopped
	$(SHROTA) train --config $(CONFIG) $(ARGS)

.PHONY: evaluate
evaluate: install ## score MODEL_DIR on MANIFEST through the serving pipeline; figures go to SCORES
	$(SHROTA) evaluate --model-dir $(or $(MODEL_DIR),$(SHIPPED)) --manifest $(MANIFEST) --json $(SCORES) $(ARGS)

##@ Check

# Tests start our programs a hundred times, so byte code is cached even where the environment forbids it.
test test-all: export PYTHONDONTWRITEBYTECODE :=

.PHONY: test
test: system-deps install lint ## what every change must pass: linters, types and the quick tests, in WORKERS (2) processes
	@# mypy works on one core for a minute or more, so the tests begin meanwhile.
	$(PY) -m mypy & types=$$!; \
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder \
		-m "not slow and not gpu and not network" || tests=$$?; \
	wait $$types && exit $${tests:-0}

.PHONY: test-all
test-all: system-deps install lint types ## the same with the slow tests, and those that need a GPU or the network
	$(PY) -m pytest --hypothesis-profile thorough

.PHONY: lint
lint: install ## ruff's rules and formatting
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

.PHONY: format
format: install ## rewrite the sources the way `make lint` wants them
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

.PHONY: types
types: install ## mypy, strictly, on serve and train
	$(PY) -m mypy

.PHONY: fuzz
fuzz: system-deps install ## 20,000 mutated inputs through every door of a running service; what fails goes to runs/fuzz.jsonl
	$(PY) bench/fuzz.py $(ARGS)

.PHONY: audit
audit: install ## secrets in the checkout, and known weaknesses in constraints.txt, as far as pypi.org can be reached
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[audit]'
	.ci/audit $(VENV)/bin

##@ Measure

.PHONY: bench
bench: bench-train bench-serve ## every measurement; tables on the screen, figures in bench/*.json

.PHONY: bench-train
bench-train: install ## speed and memory of training against the usual recipe, on clips of `make data`
	$(PY) bench/train.py $(ARGS)

.PHONY: bench-serve
bench-serve: install-bench ## the service against faster-whisper, transformers, openai-whisper and whisper.cpp: 35 minutes
	$(PY) bench/serve.py $(ARGS)

##@ Set up

.PHONY: install
install: $(VENV)/.installed ## .venv with all packages for serving, training and testing

.PHONY: install-serve
install-serve: $(VENV)/.installed-serve ## .venv with the packages for serving

.PHONY: install-bench
install-bench: $(VENV)/.installed-bench ## the same with the peers that bench-serve measures against

.PHONY: system-deps
system-deps: ## the Debian packages for synthesis, Marathi text and exotic codecs
	@.ci/system-deps $(SYSTEM_PACKAGES)

.PHONY: lock
lock: ## remake constraints.txt from the newest releases that pyproject.toml admits
	.ci/lock "$(PYTHON)"

.PHONY: clean
clean: ## remove the environment, caches and builds; recordings, runs and base models stay
	rm -rf $(VENV) build dist page/node_modules .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# One environment with two states: the stamp of the full set covers the smaller one.

$(PY):
	@test -n "$(PYTHON)" || { echo "shrota needs Python 3.11 or newer on PATH, or PYTHON=/path/to/it" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed-serve: pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --constraint constraints.txt --editable '.[train,hub,s3,ray,aws,otel,capacity,test]'
	touch $(VENV)/.installed-serve $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(PY) -m pip install --constraint constraints.txt --editable '.[train,hub,s3,ray,aws,otel,capacity,test,bench]'
	touch $@

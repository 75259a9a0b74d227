# Two commands: `make train` and `make test`. Each target sets up .venv by itself, once, and again when the
# requirements change. Without make: see README.md.
PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
RUN := $(BIN)/python

.DEFAULT_GOAL := help
.PHONY: help train test check lint format bench experiments starter site clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "make %-12s %s\n", $$1, $$2}'

$(VENV)/.student: requirements.txt constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check -q -r requirements.txt -c constraints.txt
	@touch $@

$(VENV)/.staff: $(VENV)/.student requirements-dev.txt
	$(RUN) -m pip install --disable-pip-version-check -q -r requirements-dev.txt -c constraints.txt
	@touch $@

train: $(VENV)/.student ## install, train CNN and U-Net for 100 steps each, compare with the expectations
	$(RUN) -m toolkit.quickstart

test: $(VENV)/.student ## install, run the public tests
	$(RUN) -m pytest

check: $(VENV)/.student ## table of the TODOs: not started, failing, passing, points
	@$(RUN) -m tests || exit 0

lint: $(VENV)/.staff ## ruff: errors and format
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(VENV)/.staff ## ruff: fix what can be fixed
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(VENV)/.staff ## speed of loader, training, dispatcher, image folders and grading, as ratios
	$(RUN) -m bench.loader
	$(RUN) -m bench.stored
	$(RUN) -m bench.train
	$(RUN) -m bench.dispatch
	$(RUN) -m bench.folder
	$(RUN) -m bench.grade --only complete starter

EXPERIMENT := $(RUN) -m labs.medmnist_experiments
experiments: $(VENV)/.staff ## all MedMNIST experiments with their seeds, about an hour (66 minutes on one EPYC core); resumes
	$(EXPERIMENT).cnn3d
	$(EXPERIMENT).augmentation
	$(EXPERIMENT).transfer --backbone mobilenet_v2 $(if $(WEIGHTS),--weights $(WEIGHTS))
	$(EXPERIMENT).gradcam --flag breastmnist
	$(EXPERIMENT).gradcam --flag adrenalmnist3d
	$(EXPERIMENT).quantize
	$(EXPERIMENT).few_bits
	$(EXPERIMENT).resnet

starter: $(VENV)/.staff ## build the students' repository in build/starter and prove that nothing leaked
	$(RUN) -m staff.make_starter --assignment project2 --out build/starter
	$(RUN) -m staff.check_starter build/starter

site: $(VENV)/.staff ## build the course site in build/site (needs Jekyll: apt-get install jekyll)
	$(RUN) -m staff.site

clean: ## remove what was built (not runs/ and data/)
	$(PYTHON) -c 'import shutil; [shutil.rmtree(p, ignore_errors=True) for p in (".venv", "build", ".pytest_cache", ".ruff_cache")]'

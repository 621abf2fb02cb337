PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := dev
WORKERS := 2

.PHONY: setup demo test test-oldest style check bench clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $@

demo: setup
	$(BIN)/hvmodels predict --plot outputs/demo_forecast.png
	$(BIN)/hvmodels predict --task pose-estimation --plot outputs/demo_pose.jpg
	$(BIN)/hvmodels predict --task attention-image-classification --plot outputs/demo_attention.jpg
	$(BIN)/hvmodels predict --task attention-image-classification --model src/hvmodels/assets/vitkd-student-clothing

test: setup
	$(BIN)/python -m pytest -n $(WORKERS)

test-oldest: .venv-oldest/.installed
	.venv-oldest/bin/python -m pytest -n $(WORKERS)

.venv-oldest/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable ".[$(EXTRAS)]"
	touch $@

style: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: setup
	$(BIN)/python benchmarks/ltsf_linear.py --original $(or $(ORIGINAL),$(error ORIGINAL must name a clone of cure-lab/LTSF-Linear)) $(if $(DATA),--data $(DATA))

clean:
	rm -rf $(VENV) .venv-oldest outputs build dist src/*.egg-info

# `make demo` and `make test` are all that is needed on a fresh machine with Python and make.
#
#   make demo       install, generate a dataset of synthetic shapes, train, evaluate, draw: output/demo/
#   make test       lint, types, tests
#   make test-slow  the tests that take minutes
#   make docs       build the documentation: site/index.html
#   make benchmark  measure ours, detectron2's and torchvision's FCOS: docs/performance.md (20 minutes)
#   make benchmark-learning  train them and a RetinaNet on the shapes (an hour or two; LEARNING_ITERATIONS)
#   make ablation   train FCOS with and without each of its parts: docs/ablation.md (an hour)
#   make install    only create or refresh the virtual environment
#
# PYTHON=python3.12 chooses the interpreter, VENV=/some/where the place of the environment.
# (Every path is quoted: the checkout may lie under a path with spaces.)

PYTHON ?=
VENV ?= .venv
export PYTHON VENV
PY = "$(VENV)/bin/python"
DEMO_OUTPUT ?= output/demo
BENCHMARK_DEVICES ?= cpu
BENCHMARK_FLAGS ?=
LEARNING_ITERATIONS ?= 1000
# As the command fcos-d2 does (fcos_d2_command.py).
ifeq ($(GOMP_SPINCOUNT)$(OMP_WAIT_POLICY),)
export GOMP_SPINCOUNT = 1000
endif

.PHONY: help install demo test test-slow lint format docs benchmark benchmark-learning ablation \
    wheel clean

help:
	@sed -n 's/^#   //p' Makefile

install:
	@sh dev/install.sh

demo: install
	$(PY) train_net.py --config-file configs/shapes/fcos_shapes_demo.yaml OUTPUT_DIR "$(DEMO_OUTPUT)"
	$(PY) -m fcos_d2.cli visualize --dataset shapes_val --output "$(DEMO_OUTPUT)/predictions" \
	    --results "$(DEMO_OUTPUT)/inference/coco_instances_results.json"

lint: install
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

# Two workers of one thread each: the processes that tests start would otherwise wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile --durations=15

test: lint
	$(PYTEST)

test-slow: install
	$(PYTEST) -m slow

format: install
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# The variable silences the theme's announcement of its successor.
docs: install
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

# BENCHMARK_DEVICES="cpu cuda" on a machine with a GPU; BENCHMARK_FLAGS has more flags for the command
# "speed", such as --only. Nothing else should run at the same time.
benchmark: install
	for device in $(BENCHMARK_DEVICES); do \
	    $(PY) benchmarks/benchmark.py speed --device $$device $(BENCHMARK_FLAGS) || exit; \
	done
	$(PY) benchmarks/benchmark.py page

benchmark-learning: install
	$(PY) benchmarks/benchmark.py learning SOLVER.MAX_ITER $(LEARNING_ITERATIONS)

ablation: install
	$(PY) benchmarks/benchmark.py ablation

wheel: install
	$(PY) -m hatchling build

clean:
	rm -rf "$(VENV)" dist site

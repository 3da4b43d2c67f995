# latdiff: from a fresh clone, `make try` installs and writes steered texts, `make quickstart` trains and measures.
# The text after two hashes is what `make help` prints.

RECIPE     ?= storyworld
ARGS       ?=
CHECKPOINT ?= checkpoints/$(shell basename "$(RECIPE)" .yaml)
DATA       ?=
NAME       ?=

PYTHON     ?= $(shell command -v python3.11 || command -v python3)
PY         := .venv/bin/python
LATDIFF    := .venv/bin/latdiff

.DEFAULT_GOAL := help
.PHONY: help install try quickstart quickstart-short english train-english test soak soak-fuzz lint docs demo \
        pretrain-backbone train-ae train-diffusion train-ar train-seq2seq head sample evaluate

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  RECIPE      a name in recipes/configs or a path to a yaml file (now $(RECIPE))'
	@echo '  CHECKPOINT  the folder that the recipe writes (now $(CHECKPOINT))'
	@echo '  ARGS        for training: settings such as train_denoiser.steps=500, and --quiet; else flags'

install: .venv/.installed ## a virtual environment in .venv with the tested versions

.venv/.installed: setup.cfg constraints.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --constraint constraints.txt --editable ".[dev]"
	@# or beside a folder of this name, as in the clone's own parent, Python would take that for the package
	@pwd > "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/latdiff-clone.pth"
	@touch $@

# $(call run-quickstart,FOLDER,SETTINGS OF BOTH TRAININGS,FLAGS OF EVALUATE)
define run-quickstart
@set -e; start=$$(date +%s); \
$(LATDIFF) train-ae storyworld $(2) $(ARGS); \
$(LATDIFF) train-diffusion storyworld $(2) $(ARGS); \
for attribute in sentiment topic; do \
	$(LATDIFF) fit-head $(1) --data storyworld --label-column $$attribute --name $$attribute; \
done; \
$(LATDIFF) sample $(1) --num-samples 4 --seed 0 --compare --guide sentiment=positive --guide topic=music; \
$(LATDIFF) evaluate $(1) --seeds 1 $(3); \
seconds=$$(($$(date +%s) - start)); echo "$@: $$((seconds / 60)) min $$((seconds % 60)) s -> $(1)"
endef

quickstart: install ## train on the embedded corpus, fit two heads, print guided texts, measure
	$(call run-quickstart,checkpoints/storyworld,,)

quickstart-short: install ## the same with 60 steps each: every command once, texts of no worth
	$(call run-quickstart,checkpoints/quickstart-short,name=quickstart-short data.train_size=4000 \
		train_autoencoder.steps=60 train_denoiser.steps=60,--num-samples 32)

try: install ## steered stories of the checkpoint that comes with latdiff, unsteered ones beside them
	$(LATDIFF) sample storyworld --guide sentiment=positive --guide topic=music --num-samples 3 --seed 0 --compare

REVIEWS := --guide kind=review --num-samples 6 --seed 0 --compare

english: install ## fetch two pretrained models, print real English, unsteered and steered side by side
	$(LATDIFF) fetch
	$(LATDIFF) sample english $(REVIEWS) --guide sentiment=positive
	$(LATDIFF) sample english $(REVIEWS) --guide sentiment=negative
	$(LATDIFF) sample english --prompt "The food at this place" --guide sentiment=positive --num-samples 3 --seed 0

train-english: install ## train that model on the data sets in the folder DATA (docs/english.md)
	$(if $(DATA),,$(error train-english needs a folder of data sets, e.g. make train-english DATA=path/to/sets))
	$(LATDIFF) fetch
	$(PY) recipes/english_texts.py "$(DATA)" data/english
	$(LATDIFF) train-sentence english $(ARGS)
	$(LATDIFF) train-diffusion english $(ARGS)
	@set -e; for attribute in sentiment toxicity topic; do \
		$(LATDIFF) fit-head checkpoints/english --data data/english/$$attribute-head.jsonl --limit 400 --name $$attribute; \
	done
	$(LATDIFF) fit-head checkpoints/english --data data/english/kind-head.jsonl --name kind

test: install ## all tests, offline, in a process for every core (four at most)
	$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

soak: install ## kill every recipe 200 times in all, and compare what comes out (a quarter of an hour)
	$(PY) tests/soak/kills.py --json docs/lab/results/soak-kills.json $(ARGS)

soak-fuzz: install ## FUZZ_EXAMPLES inputs (100,000) for every parser, into docs/lab/results/soak-fuzz.json: hours
	FUZZ=soak $(PY) -m pytest tests/fuzz --numprocesses auto --maxprocesses 4 --dist worksteal --quiet --no-header $(ARGS)

lint: install ## style, likely mistakes and types
	$(PY) -m ruff check .
	$(PY) -m mypy

.venv/.docs: .venv/.installed
	$(PY) -m pip install --constraint constraints.txt --editable ".[docs]"
	@touch $@

docs: .venv/.docs ## the documentation as pages in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet $(ARGS)

demo: install ## a page at 127.0.0.1 to sample, steer, edit and fit heads, e.g. ARGS="english --port 7861"
	$(LATDIFF) demo $(ARGS)

pretrain-backbone: install ## a small T5 of your own on the recipe's texts
	$(LATDIFF) pretrain-backbone "$(RECIPE)" $(ARGS)

train-ae: install ## the autoencoder of RECIPE; the same command resumes
	$(LATDIFF) train-ae "$(RECIPE)" $(ARGS)

train-diffusion: install ## the denoiser of RECIPE, and first what it needs and is missing
	$(LATDIFF) train-diffusion "$(RECIPE)" $(ARGS)

train-ar: install ## a language model of RECIPE's texts, a judge of fluency and a rival
	$(LATDIFF) train-ar "$(RECIPE)" $(ARGS)

train-seq2seq: install ## the backbone fine-tuned on RECIPE's pairs, to hold a text-conditional model against
	$(LATDIFF) train-seq2seq "$(RECIPE)" $(ARGS)

head: install ## a guidance head NAME for CHECKPOINT from the labelled texts DATA
	$(if $(and $(DATA),$(NAME)),,$(error head needs both, e.g. make head DATA=reviews.jsonl NAME=tone))
	$(LATDIFF) fit-head "$(CHECKPOINT)" --data "$(DATA)" --name "$(NAME)" $(ARGS)

sample: install ## texts from CHECKPOINT, e.g. ARGS="--guide sentiment=positive:18 --num-samples 8"
	$(LATDIFF) sample "$(CHECKPOINT)" $(ARGS)

evaluate: install ## measure CHECKPOINT over five seeds into its metrics.json, a file or a hub id into NAME.json
	$(LATDIFF) evaluate "$(CHECKPOINT)" $(ARGS)

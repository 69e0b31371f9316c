# Everything runs in .venv, which these targets make from the pinned requirements. Needs make, git and a Python 3.11 to 3.13:
# the newest on the path, or the one that PYTHON names.

PYTHON =
ARGS =
MODULE = src/landuse/split.py
TESTS = tests/test_split.py
override PATH := $(CURDIR)/.venv/bin:$(PATH)
export PATH
unexport PYTHONSAFEPATH
SHELL = /bin/sh
export SHELL # DVC runs stages by it
LOCK = uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links

ifneq ($(findstring :,$(CURDIR)),)
$(error $(CURDIR) has a colon, which no PATH can hold: move the project to another folder)
endif

.PHONY: run up down status test test-all mutants docs ui bench lock clean

run: .venv/run    ## from the source in params.yaml to a champion, if it is good enough
	landuse ingest
	dvc repro
	@landuse info || { dvc repro --single-item --force register && landuse info; }
	@landuse promote || test $$? -eq 3
	@printf '\n' && python -m pipelines next

up: .venv/run    ## start what keeps the model fresh: Prefect and MLflow servers, a worker, a watcher of inbox/
	python -m pipelines up

down: .venv/run    ## end what `make up` started
	python -m pipelines down

status: .venv/run    ## what is up, what is scheduled, what ran last
	@python -m pipelines status

test test-all: .venv/dev    ## style, layers, types and tests; `test` leaves out the slow ones, and runs one pipeline on real servers
	ruff check
	ruff format --check
	lint-imports
	mypy
	pytest --numprocesses 3 $(if $(filter test,$@),-m "not slow") $(ARGS)

mutants: .venv/dev    ## small changes of MODULE that TESTS do not notice; every one takes a run of these, so start it by hand
	sh tests/mutants.sh $(MODULE) $(TESTS)

docs: .venv/dev    ## the documentation as a site with search, in docs/_build/html
	python docs/generate.py
	python -m sphinx --fresh-env --write-all --fail-on-warning --keep-going --nitpicky --quiet docs docs/_build/html

ui: .venv/run    ## the MLflow UI on this machine
	@python -m pipelines ui

bench: .venv/run    ## the tutorial's recipe and this project side by side, about half an hour; ARGS=--quick is a short form
	python benchmarks/bench.py $(ARGS)

lock:    ## pin the requirements anew; needs uv
	$(LOCK) --all-extras --group build --group dev -o requirements/dev.txt
	$(LOCK) --extra work --group build --constraint requirements/dev.txt -o requirements/run.txt
	$(LOCK) --extra work --extra worker --extra s3 --extra postgresql --group build --constraint requirements/dev.txt -o requirements/team.txt
	$(LOCK) --extra serve --group build --constraint requirements/dev.txt -o requirements/serve.txt
	$(LOCK) --extra worker --group build --constraint requirements/dev.txt -o requirements/worker.txt

clean:    ## remove what was installed; data, artifacts and registry stay
	rm -rf .venv

.venv/run .venv/dev: .venv/%: requirements/%.txt requirements/install.sh pyproject.toml
	mkdir -p .dvc/tmp && chmod go-rwx .dvc/tmp  # where DVC unpickles its state
	sh requirements/install.sh $< $(PYTHON)
	.venv/bin/python -m landuse.project.plots_page  # or `dvc plots` would load its scripts from the web
	touch $@

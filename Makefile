# Two commands are all a newcomer needs: `make demo` and `make test`. Each does its own set-up.
PYTHON ?= python3
VENVS := .venv
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-matrix lint format bench clean

demo: $(VENVS)/demo/.done  ## Train a classifier and see the same run in five trackers.
	HF_HUB_OFFLINE=1 $(VENVS)/demo/bin/runcast demo --output demo-output

test: $(VENVS)/tox/.done  ## Run the tests, the trackers most used in environments of their own, all in one together.
	$(VENVS)/tox/bin/tox run $(TOX_ARGS)

test-matrix: $(VENVS)/tox/.done  ## Every tracker in an environment of its own, with its newest and oldest version.
	$(VENVS)/tox/bin/tox run -m matrix $(TOX_ARGS)

lint: $(VENVS)/tox/.done  ## Style and types.
	$(VENVS)/tox/bin/tox run -e lint,types

format: $(VENVS)/tox/.done  ## Rewrite the code in the project's style.
	$(VENVS)/tox/bin/tox run -e format

bench: $(VENVS)/bench/.done  ## What logging and slow trackers cost training, and how fast trackers are delivered to.
	$(VENVS)/bench/bin/python benchmarks/log_overhead.py
	$(VENVS)/bench/bin/python benchmarks/slow_tracker.py
	$(VENVS)/bench/bin/python benchmarks/delivery.py

clean:  ## Remove environments, caches and demo output; never ./runs.
	rm -rf $(VENVS) .tox build dist demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENVS)/demo/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENVS)/demo
	$(VENVS)/demo/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[demo]"
	touch $@

$(VENVS)/bench/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENVS)/bench
	$(VENVS)/bench/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[demo]" lightning
	touch $@

$(VENVS)/tox/.done: constraints.txt
	$(PYTHON) -m venv $(VENVS)/tox
	$(VENVS)/tox/bin/python -m pip install --quiet --constraint constraints.txt tox
	touch $@

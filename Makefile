# From a bare clone to a report, or to the verdict of the tests. VENV=FOLDER takes another environment than .venv,
# PYTHON=COMMAND another interpreter than the first one found. GNU make 3.81 will do.

VENV = .venv
unexport PYTHONHOME PYTHONPATH

.NOTPARALLEL:
.PHONY: help demo test floor check docs tutorial clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: ## make .venv, train 108 tiny models in about a minute, end with the path of a report
	@sh .ci/environment "$(VENV)" report
	@echo "meanstep: running meanstep reproduce toy --scale smoke (about a minute)"
	@"$(VENV)/bin/meanstep" reproduce toy --scale smoke --out runs/demo
	@ls "$(CURDIR)/runs/demo/report.html"

test: ## make .venv with everything the tests need, run them (minutes)
	@sh .ci/environment "$(VENV)" dev
	@echo "meanstep: running pytest -n 2 (minutes)"
	@"$(VENV)/bin/pytest" -n 2

floor: ## make .venv-floor with the oldest torch that is supported, run the tests of the mathematics there (minutes)
	@sh .ci/environment .venv-floor dev 2.11.0
	@echo "meanstep: running pytest -n 2 -m 'floor and not slow and not gpu' (minutes)"
	@.venv-floor/bin/pytest -n 2 -m 'floor and not slow and not gpu'

check: ## make .venv, then formatting, lint, types, spelling
	@sh .ci/environment "$(VENV)" dev
	@PATH="$$(cd "$(VENV)/bin" && pwd):$$PATH" .ci/checks

docs: ## make .venv, build the documentation as a site, end with the path of its first page
	@sh .ci/environment "$(VENV)" docs
	@"$(VENV)/bin/python" docs/site/build.py build/site

tutorial: ## make .venv, run docs/tutorial.py (three minutes) and write its page again
	@sh .ci/environment "$(VENV)" docs
	@"$(VENV)/bin/python" docs/site/notebook.py

clean: ## remove the environments, the caches and the demo's report; no other run
	rm -rf .venv .venv-ci .venv-floor .pytest_cache .ruff_cache .mypy_cache build/site runs/demo

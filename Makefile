# One command a chore: the same here and in continuous integration.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Processes that share the tests: each computes on one thread.
TEST_JOBS ?= 2
PYTEST = python -m pytest -n $(TEST_JOBS) --dist worksteal

.PHONY: demo docs coverage test test-slow test-wheel test-numpy1 acceptance acceptance-label lint configs results bench clean

demo: $(VENV)/installed
	rm -rf demo
	$(BIN)/python scripts/make_sample.py demo/scans/sample_FLAIR.nii.gz
	$(BIN)/python -m monai.bundle run --config_file configs/inference.json --dataset_dir demo/scans --output_dir demo/maps
	$(BIN)/python scripts/show_map.py demo/scans/sample_FLAIR.nii.gz demo/maps demo/sample.png
	@echo "map:     demo/maps/sample_FLAIR_anomaly.nii.gz"
	@echo "mask:    demo/maps/sample_FLAIR_anomaly_mask.nii.gz"
	@echo "picture: demo/sample.png"

test: $(VENV)/installed lint docs
	OMP_NUM_THREADS=1 $(BIN)/$(PYTEST) tests

# What takes minutes: the rates of every method, a comparison of trainings, processes that are killed again and again.
test-slow: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/$(PYTEST) -m slow tests

# MONAI Label still lives on NumPy 1.26: what reads, maps and writes is tested there too, and without the extras, of which
# `hospital` brings a JPEG-LS decoder that wants NumPy 2; so the bare install is tested.
NUMPY1 = brain contract findings image_methods job methods mri networks nifti odds oct place_rates scoring \
    units volumes
test-numpy1: $(VENV)-numpy1/installed
	OMP_NUM_THREADS=1 $(VENV)-numpy1/bin/$(PYTEST) $(NUMPY1:%=tests/test_%.py)

# Minutes, with real scans: a night's batch, killed and started again; its figures stand in docs/batches.md.
acceptance: $(VENV)/installed
	$(BIN)/python -m pytest -s tests/acceptance/test_batches.py tests/acceptance/test_workers.py tests/acceptance/test_slurm.py tests/acceptance/test_archive.py

# A real MONAI Label server, in an environment that it makes (minutes, 4 GB); figures in docs/monai_label.md.
acceptance-label: $(VENV)/installed
	$(BIN)/python -m pytest -s tests/acceptance/test_monai_label.py

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The configs that people run, from the parts that they share.
configs: $(VENV)/installed
	$(BIN)/python scripts/compose_configs.py

# The site, without a warning: build/site/index.html.
docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# The share of lines that the suite runs, processes of its own left aside.
coverage: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/$(PYTEST) --cov=bundle --cov-report=term tests

# The tables of `flipmap evaluate`, put into the pages that show them.
results: $(VENV)/installed
	$(BIN)/python scripts/fill_docs.py

bench: $(VENV)/installed
	$(BIN)/flipmap lab benchmark

# The built wheel, put elsewhere, and a part of the suite against it from a folder without the repository.
test-wheel: $(VENV)/installed
	rm -rf $(VENV)-wheel build && mkdir -p $(VENV)-wheel/empty
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(VENV)-wheel .
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)-wheel/site $(VENV)-wheel/*.whl
	cp -r tests $(VENV)-wheel/empty/
	cd $(VENV)-wheel/empty && PYTHONPATH=$(abspath $(VENV)-wheel/site) $(abspath $(BIN))/python -m pytest -p no:cacheprovider \
	    tests/test_installed.py tests/test_volumes.py

# The pinned versions, as constraints; torch by its exact number, or pip takes the newest build with all of CUDA.
$(VENV)/installed: requirements.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c requirements.txt --editable ".[hospital,dev,docs]" eyepy
	touch $@

$(VENV)-numpy1/installed: requirements.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)-numpy1
	sed -E 's/^numpy==.*/numpy==1.26.4/' requirements.txt > $(VENV)-numpy1/constraints.txt
	$(VENV)-numpy1/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c $(VENV)-numpy1/constraints.txt \
	    --editable . hypothesis pytest pytest-xdist pynrrd
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-numpy1 $(VENV)-wheel demo build *.egg-info

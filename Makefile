# One command a chore: the same here and in continuous integration.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-numpy1 acceptance acceptance-label lint bench clean

demo: $(VENV)/installed
	rm -rf demo
	$(BIN)/python scripts/make_sample.py demo/scans/sample_FLAIR.nii.gz
	$(BIN)/python -m monai.bundle run --config_file configs/inference.json --dataset_dir demo/scans --output_dir demo/maps
	$(BIN)/python scripts/show_map.py demo/scans/sample_FLAIR.nii.gz demo/maps demo/sample.png
	@echo "map:     demo/maps/sample_FLAIR_anomaly.nii.gz"
	@echo "mask:    demo/maps/sample_FLAIR_anomaly_mask.nii.gz"
	@echo "picture: demo/sample.png"

test: $(VENV)/installed lint
	$(BIN)/python -m pytest tests

# MONAI Label still lives on NumPy 1.26: the same suite there, training apart, and without the extras, of which
# `hospital` brings a JPEG-LS decoder that wants NumPy 2; so the bare install is tested too.
test-numpy1: $(VENV)-numpy1/installed
	$(VENV)-numpy1/bin/python -m pytest tests --ignore tests/test_training.py

# Minutes, with real scans: a night's batch, killed and started again; its figures stand in docs/batches.md.
acceptance: $(VENV)/installed
	$(BIN)/python -m pytest -s tests/acceptance/test_batches.py

# A real MONAI Label server, in an environment that it makes (minutes, 4 GB); figures in docs/monai_label.md.
acceptance-label: $(VENV)/installed
	$(BIN)/python -m pytest -s tests/acceptance/test_monai_label.py

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/installed
	$(BIN)/python scripts/benchmark.py

# The pinned versions; torch among them by its exact number, or pip takes the newest build with all of CUDA.
$(VENV)/installed: requirements.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)-numpy1/installed: requirements.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)-numpy1
	sed -E 's/^numpy==.*/numpy==1.26.4/; /^(pydicom|highdicom|dcm2niix|eyepy|playwright)==/d' requirements.txt > $(VENV)-numpy1/requirements.txt
	$(VENV)-numpy1/bin/python -m pip install --quiet --disable-pip-version-check -r $(VENV)-numpy1/requirements.txt
	$(VENV)-numpy1/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-numpy1 demo build *.egg-info

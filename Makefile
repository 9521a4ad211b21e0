# `make deploy` and `make test` do everything on a machine that has Python 3.10 or later and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
OUT := out

# What runs on this GPU, for test-gpu; each has an environment of its own.
GPU ?= tensorrt
comma := ,
GPUS := tensorrt tensorrt-rtx jetson onnxruntime-gpu
$(if $(filter $(GPU),$(GPUS)),,$(error GPU is one of $(GPUS)))
GPU_BIN := $(VENV)-$(GPU)/bin

.PHONY: deploy calibrate test test-slow test-gpu benchmark lint types package ci clean

deploy: $(VENV)/installed-deploy
	$(BIN)/wdsr-edge deploy wdsr-b-3x32-x2 --force --output $(OUT)/wdsr-b-3x32-x2
	$(BIN)/wdsr-edge upscale wdsr_edge/images/photos/coffee.png --model $(OUT)/wdsr-b-3x32-x2 --output $(OUT)/coffee_x2.png

# INT8 of every shipped model again, in place, on photographs in folders: make calibrate IMAGES='T91 BSDS200'
# (COMPILE=--compile learns through torch.compile: twice as fast, needs a C++ compiler, gives other last digits)
calibrate: $(VENV)/installed-deploy
	$(if $(IMAGES),,$(error name folders of ground-truth images: make calibrate IMAGES='DIR DIR'))
	set -e; for bundle in wdsr_edge/zoo/*/; do \
		case $$bundle in *-1x*) drop=0.05;; *) drop=0.03;; esac; \
		OMP_NUM_THREADS=1 $(BIN)/wdsr-edge calibrate $$bundle $(addprefix --images ,$(IMAGES)) --layers body --ranges mse \
			--max-drop $$drop --max-drop-drawn 0.05 $(COMPILE); \
	done

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-slow: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m "slow and not gpu"

test-gpu: $(VENV)-$(GPU)/installed
	tests=0; $(GPU_BIN)/python -m pytest tests/gpu -m gpu --timeout 3600 || tests=1; \
	$(GPU_BIN)/wdsr-edge doctor --self-test --output $(OUT)/self-test.json && exit $$tests

benchmark: $(VENV)/installed-dev
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-sort=name --benchmark-columns=min,median,max,rounds

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/python -m mypy
	$(BIN)/python -m mypy --platform win32 --cache-dir .mypy_cache/win32
	$(BIN)/python -m mypy --platform darwin --cache-dir .mypy_cache/darwin

package: $(VENV)/installed-dev
	$(BIN)/python tests/packaging/check_wheel.py
	$(BIN)/python tests/packaging/check_cuda_bindings.py

ci:
	.ci/run

clean:
	rm -rf $(VENV) $(VENV)-* $(OUT) dist build

$(VENV)/installed-deploy: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[export,onnxruntime,openvino]'
	touch $@

# On a Jetson TensorRT comes with JetPack, so that the environment must see the system's packages.
$(VENV)-$(GPU)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(if $(filter jetson,$(GPU)),--system-site-packages) $(VENV)-$(GPU)
	$(subst $(BIN),$(GPU_BIN),$(INSTALL)) --editable '.[$(GPU)]' \
		$(if $(filter onnxruntime-gpu,$(GPU)),'onnxruntime-gpu[cuda$(comma)cudnn]',onnxruntime) \
		'pytest>=8.3' 'pytest-timeout>=2.3' 'hypothesis>=6.100'
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[dev]'
	touch $@

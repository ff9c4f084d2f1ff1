# make demo [INPUT=video|directory|/dev/videoN]   three processes over DDS: camera, node, recorder; results in out/demo
# make test                                       the whole suite
# make setup                                      only the set-up that both share (./.venv and ./build)
# make storm MINUTES=10                           every fault of a camera at random: 10 minutes the node, 10 the real tracker
# make colcon                                     colcon build --merge-install into ./install
# make gpu-check                                  on an NVIDIA GPU: engines, tests, benchmark, one JSON file (docs/GPU.md)
# make results [RESULTS_ARGS="--only NAME"]       the runs of docs/results/runs.yaml, and docs/RESULTS.md from them
# make quick | lint | clean | distclean           tests without ROS; ruff; ...
#
# DENSEFIT_MEDIAPIPE=0 leaves MediaPipe out; PYTHON=python3.12 chooses the interpreter; TORCH_INDEX_URL=... an index with CPU builds of torch (see README).

SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help setup setup-test demo test storm gpu-check results colcon lint quick clean distclean

export PYTHON TORCH_INDEX_URL DENSEFIT_MEDIAPIPE
# Several numerical libraries with a thread pool each are slower than one thread each on a small machine.
export OMP_NUM_THREADS ?= 1

RUN := source scripts/env.sh &&
PYTEST := $(RUN) python -m pytest

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -10

setup:
	@scripts/setup.sh run

setup-test:
	@scripts/setup.sh test

demo: setup
	@$(RUN) python -m densefit_ros.demo.main --out out/demo $(if $(INPUT),--input "$(INPUT)") $(DEMO_ARGS)

test: setup-test
	@$(PYTEST) -q -m "not gpu" --durations=15 $(TEST_ARGS)

MINUTES ?= 10
storm: setup-test
	@mkdir -p out
	@for node in fake pipeline; do DENSEFIT_STORM_S=$$(( $(MINUTES) * 60 )) DENSEFIT_STORM_NODE=$$node \
	  DENSEFIT_STORM_LOG=out/storm_$$node.json bash -c '$(RUN) python -m pytest -q -s test/ros/test_ros_storm.py' || exit 1; done

# Asked before anything is installed: a machine without CUDA is told so in one line.
gpu-check:
	@$(or $(PYTHON),python3) densefit_ros/runtime/cuda_probe.py
	@$(MAKE) --no-print-directory setup-test
	@$(RUN) if python -c "import tensorrt" 2>/dev/null; then python -m densefit_ros.cli build-engine; fi
	@$(PYTEST) -q -m gpu $(TEST_ARGS)
	@$(RUN) python -m densefit_ros.bench.gpu_check $(GPU_ARGS)

results: setup-test
	@$(RUN) python -m densefit_ros.cli results $(RESULTS_ARGS)

# An installed ROS 2 builds with a plain "colcon build"; wheels must be told where they are and one extra CMake file.
WHEELS := $(if $(wildcard /opt/ros/$(or $(ROS_DISTRO),none)),,yes)
colcon: setup-test
	@$(RUN) $(if $(WHEELS),AMENT_PREFIX_PATH="$(CURDIR)/.venv" CMAKE_PREFIX_PATH="$(CURDIR)/.venv") \
	  colcon build --merge-install --packages-select densefit_ros $(COLCON_ARGS) --cmake-args -DBUILD_TESTING=OFF $(if $(WHEELS),\
	  -DPython3_EXECUTABLE="$(CURDIR)/.venv/bin/python" -DCMAKE_PROJECT_INCLUDE="$(CURDIR)/scripts/cmake/wheel_prefix.cmake")

lint: setup-test
	@$(RUN) ruff check . && ruff format --check .

# What needs neither ROS nor long runs: before a commit.
quick: setup-test
	@$(PYTEST) -q -m "not gpu and not ros and not slow" $(TEST_ARGS)

clean:
	rm -rf build install log out

distclean: clean
	rm -rf .venv

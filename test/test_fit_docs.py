"""The example of docs/FIT.md runs as printed, in an empty folder, with nothing of the package but body, fit and geometry."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from fit_helpers import CAMERA, body, realistic_params

from densefit_ros.body.joints import landmark_positions
from densefit_ros.body.model import pose
from densefit_ros.geometry.camera import project

ROOT = Path(__file__).resolve().parents[1]


def _example() -> str:
    return re.search(r"```python\n(.*?)```", (ROOT / "docs" / "FIT.md").read_text(), re.S).group(1)


def test_example_fits_two_people(tmp_path):
    b, truth = body(), realistic_params(np.random.default_rng(3), 2)
    marks = b.landmarks["openpose25"]
    uv = project(CAMERA, landmark_positions(marks, pose(b, truth)))
    found = np.concatenate([uv, 0.9 * np.ones((2, 25, 1))], -1) * marks.placed[None, :, None]
    people = [{"pose_keypoints_2d": f.reshape(-1).tolist()} for f in found]
    (tmp_path / "keypoints.json").write_text(json.dumps({"people": people}))
    code = _example()
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    code += (
        "\nimport sys\nrooms = {m.split('.')[1] for m in sys.modules if m.startswith('densefit_ros.')}\nprint(sorted(rooms))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=_environment(), capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-2000:]
    lines = [line for line in run.stdout.splitlines() if " at [" in line]
    assert len(lines) == 2
    for line, t in zip(lines, truth.t_camera_root):
        assert line.startswith(("CONVERGED", "MAX_ITERATIONS"))
        z = float(re.findall(r"-?[0-9.]+", line[line.index("[") : line.index("]")])[2])
        assert abs(z - t[2]) < 0.6  # one picture knows size only from the shape prior
    assert "'track'" not in run.stdout and "'ros'" not in run.stdout and "'pipeline'" not in run.stdout


def _environment() -> dict:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

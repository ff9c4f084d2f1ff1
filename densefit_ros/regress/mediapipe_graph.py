"""The one door to MediaPipe, an optional extra: import, graphs of its packaged pose models, and its log noise.

Release 0.10.21 is the last whose wheel carries the pose models; later ones need a ``.task`` file
(see :mod:`densefit_ros.regress.mediapipe_keypoints`).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import BackendUnavailable

MODEL_FILES = ("pose_detection/pose_detection.tflite", "pose_landmark/pose_landmark_full.tflite")
INSTALL_HINT = (
    "pip install absl-py attrs flatbuffers 'protobuf<5' matplotlib && pip install --no-deps mediapipe==0.10.21 "
    "(Python 3.10 to 3.12, x86-64)"
)


def require() -> Any:
    """The ``mediapipe`` module.  Raises BackendUnavailable with the install hint."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    try:
        with quiet_stderr():
            import mediapipe
    except ImportError as e:
        raise BackendUnavailable(f"MediaPipe cannot be imported ({e}): {INSTALL_HINT}") from e
    return mediapipe


def available() -> bool:
    """True when MediaPipe is installed with its packaged pose models; imports nothing."""
    spec = importlib.util.find_spec("mediapipe")
    if spec is None or spec.origin is None:
        return False
    models = Path(spec.origin).parent / "modules"
    return all((models / name).is_file() for name in MODEL_FILES)


def make_graph(text: str, outputs: Sequence[str], side_inputs: Mapping[str, Any] | None = None) -> Any:
    """A running graph from its text form; ``graph.process({stream: value})`` answers with the named outputs.

    Every call stands alone: these graphs keep no memory of earlier images.
    """
    require()
    with quiet_stderr():
        try:
            from google.protobuf import text_format
            from mediapipe.framework import calculator_pb2
            from mediapipe.python.solution_base import SolutionBase

            config = text_format.Parse(text, calculator_pb2.CalculatorGraphConfig())
            return SolutionBase(graph_config=config, outputs=list(outputs), side_inputs=dict(side_inputs or {}))
        except (ImportError, OSError, RuntimeError, ValueError) as e:
            reason = (str(e).splitlines() or [type(e).__name__])[0]
            raise BackendUnavailable(
                f"this MediaPipe release does not carry the pose models ({reason}): {INSTALL_HINT}, or give a .task file"
            ) from e


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hide what native code writes to the process's stderr; use it round set-up calls only.

    MediaPipe's runtime prints banners before its log level can be set, on every import and first inference.
    """
    try:
        saved = os.dup(2)
    except OSError:  # stderr is closed: nothing to hide
        yield
        return
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(sink)
        os.close(saved)


DETECTION_GRAPH = """
input_stream: "image"
output_stream: "detections"
node { calculator: "PoseDetectionCpu" input_stream: "IMAGE:image" output_stream: "DETECTIONS:detections" }
"""
LANDMARK_GRAPH = """
input_stream: "image"
input_stream: "roi"
input_side_packet: "model_complexity"
output_stream: "landmarks"
output_stream: "auxiliary"
output_stream: "world"
node {
  calculator: "PoseLandmarkByRoiCpu"
  input_side_packet: "MODEL_COMPLEXITY:model_complexity"
  input_stream: "IMAGE:image"
  input_stream: "ROI:roi"
  output_stream: "LANDMARKS:landmarks"
  output_stream: "AUXILIARY_LANDMARKS:auxiliary"
  output_stream: "WORLD_LANDMARKS:world"
}
"""

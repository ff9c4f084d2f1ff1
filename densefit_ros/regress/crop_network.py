"""Anybody's crop regressor, exported to ONNX: what goes in and what comes out is said by settings (``regress.custom.*``)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from ..body.model import BodyModel
from ..config import CropNetworkConfig
from ..errors import AssetError, ConfigError, ShapeError
from ..geometry import so3
from ..runtime.protocol import Runtime, TensorSpec
from ..types import NUM_BETAS, NUM_JOINTS, BodyParams, Camera, Crop, Estimate
from .external.people import OTHER_SHAPES, for_body, in_camera, weak_to_full

_log = logging.getLogger(__name__)


def _interleaved(value: np.ndarray) -> np.ndarray:
    """SPIN's order: the two columns as a 3x2 matrix, row by row."""
    pairs = value.reshape(*value.shape[:-1], 3, 2)
    return so3.from_rot6d_columns(np.concatenate([pairs[..., 0], pairs[..., 1]], -1))


# Numbers per joint, and how they become matrices.
ROTATIONS: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "rotmat": (9, lambda v: so3.project(v.reshape(*v.shape[:-1], 3, 3))),
    "rot6d_rows": (6, so3.from_rot6d_rows),
    "rot6d_columns": (6, so3.from_rot6d_columns),
    "rot6d_interleaved": (6, _interleaved),
    "rotvec": (3, so3.exp),
}


class CropNetwork:
    """A regressor of others behind any runtime.

    Raises AssetError when the file has other inputs or outputs than the settings say, ConfigError when these make no sense.
    """

    def __init__(self, body: BodyModel, runtime: Runtime, options: CropNetworkConfig) -> None:
        self.runtime, self.name = runtime, f"custom ({runtime.name})"
        self._body, self._options = body, options
        if not body.is_smpl:
            _log.warning("%s: %s", runtime.path, OTHER_SHAPES)
        self._mean, self._std = (_three(getattr(options, n), f"regress.custom.{n}") for n in ("mean", "std"))
        if (self._std <= 0).any():
            raise ConfigError(f"regress.custom.std: expected positive numbers, got '{options.std}'")
        self._image = self._image_input()
        spec = runtime.inputs[self._image]
        given = {"height": options.input_height, "width": options.input_width}
        places = (2, 3) if options.layout == "nchw" else (1, 2)
        sides = [n or spec.shape[p] or 0 for n, p in zip(given.values(), places)]
        if not all(isinstance(n, int) and n > 0 for n in sides):
            raise ConfigError(f"{runtime.path} does not say its input's size: set regress.custom.input_height and input_width")
        self._height, self._width = sides
        self.size_px, self.margin = max(sides), options.margin
        outputs = (options.pose, options.root, options.betas, options.camera, options.confidence)
        for name in filter(None, outputs):
            if name not in runtime.outputs:
                raise AssetError(f"{runtime.path}: expected the output '{name}' of regress.custom, got {sorted(runtime.outputs)}")
        known = {self._image, options.box_input} - {""}
        if set(runtime.inputs) != known:
            raise AssetError(
                f"{runtime.path}: has the inputs {sorted(runtime.inputs)}, regress.custom feeds {sorted(known)}: "
                "set image_input and box_input"
            )

    def estimate(self, crop: Crop, camera: Camera, warm: Sequence[BodyParams] = ()) -> Estimate:
        """One estimate per window of ``crop``, which was cut from an image of ``camera``; ``warm`` is not used.

        Windows whose outputs are not finite, as when half precision overflows, get NaN and confidence 0.  Raises ShapeError.
        """
        inputs = {self._image: self._pixels(crop.rgb, self.runtime.inputs[self._image])}
        side = crop.size * crop.image_from_crop[:, 0, 0].astype(np.float64)
        centre = crop.image_from_crop[:, :, 2] + side[:, None] / 2
        if self._options.box_input:
            inputs[self._options.box_input] = self._box_info(centre, side, camera)
        outputs, count, f = self._run(inputs), len(crop.rgb), np.float32
        o = self._options
        values = {name: self._output(outputs, name, count) for name in (o.pose, o.root, o.betas, o.camera, o.confidence) if name}
        fine = np.all([np.isfinite(v).all(1) for v in values.values()], axis=0)
        confidence = fine.astype(f)
        if o.confidence:
            confidence[fine] = np.clip(values[o.confidence][fine, 0], 0, 1)
        params = BodyParams(*(np.full((count, *shape), np.nan, f) for shape in ((NUM_BETAS,), (3,), (NUM_JOINTS - 1, 3), (3,))))
        if fine.any():
            found = self._bodies({n: v[fine] for n, v in values.items()}, centre[fine], side[fine], camera)
            for field in dataclasses.fields(BodyParams):
                getattr(params, field.name)[fine] = getattr(found, field.name)
        sigma = np.full((count, NUM_JOINTS), o.rot_sigma_rad, f)
        return Estimate(params, confidence, source="custom", rot_sigma_rad=sigma)

    def _bodies(self, values: dict[str, np.ndarray], centre: np.ndarray, side: np.ndarray, camera: Camera) -> BodyParams:
        rotvec = self._rotations(values)
        betas = values[self._options.betas][:, :NUM_BETAS]
        if betas.shape[1] != NUM_BETAS:
            raise ShapeError(f"{self.runtime.path}: expected {NUM_BETAS} betas or more, got {betas.shape[1]}")
        f = np.float32
        t = self._translation(values[self._options.camera], centre, side, camera)
        params = BodyParams(betas.astype(f), rotvec[:, 0].astype(f), rotvec[:, 1:].astype(f), t.astype(f))
        params = for_body(params, self._body)
        return self._from_own_camera(params, camera) if self._options.camera_kind == "full" else params

    def _image_input(self) -> str:
        name = self._options.image_input
        images = [n for n, spec in self.runtime.inputs.items() if len(spec.shape) == 4]
        if name and name not in self.runtime.inputs:
            raise AssetError(f"{self.runtime.path}: expected the input '{name}', got {sorted(self.runtime.inputs)}")
        if not name and len(images) != 1:
            raise AssetError(f"{self.runtime.path}: expected one image input, got {images}: set regress.custom.image_input")
        return name or images[0]

    def _pixels(self, rgb: np.ndarray, spec: TensorSpec) -> np.ndarray:
        """Windows (P,S,S,3) uint8 as the network wants them; an oblong input sees the middle of the window."""
        longer = max(self._height, self._width)
        x, y = (longer - self._width) // 2, (longer - self._height) // 2
        shrinks = longer < rgb.shape[1]
        resized = [cv2.resize(w, (longer, longer), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR) for w in rgb]
        pixels = np.stack(resized)[:, y : y + self._height, x : x + self._width]
        if self._options.channels == "bgr":
            pixels = pixels[..., ::-1]
        if spec.dtype != "uint8":  # a network of bytes normalises by itself
            pixels = ((pixels / np.float32(255) - self._mean) / self._std).astype(spec.dtype)
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) if self._options.layout == "nchw" else pixels)

    def _box_info(self, centre: np.ndarray, side: np.ndarray, camera: Camera) -> np.ndarray:
        """CLIFF's three numbers: where the crop lies and how large it is, over the focal length."""
        info = np.column_stack([centre - [camera.cx, camera.cy], side]) / camera.fx
        if self._options.box_scaling == "cliff":
            info = np.column_stack([2.8 * info[:, :2], (info[:, 2] - 0.24) / 0.06])
        return info.astype(np.float32)

    def _run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One pass; one per person for files that were exported for a single one."""
        if self.runtime.inputs[self._image].shape[0] != 1:
            return self.runtime(inputs)
        count = len(inputs[self._image])
        passes = [self.runtime({n: a[i : i + 1] for n, a in inputs.items()}) for i in range(count)]
        return {n: np.concatenate([np.atleast_1d(p[n]) for p in passes]) for n in passes[0]}

    def _rotations(self, values: dict[str, np.ndarray]) -> np.ndarray:
        """(P,24,3) rotation vectors."""
        width, to_matrix = ROTATIONS[self._options.rotations]
        parts = [(self._options.pose, NUM_JOINTS)]
        if self._options.root:
            parts = [(self._options.root, 1), (self._options.pose, NUM_JOINTS - 1)]
        matrices = []
        for name, joints in parts:
            value = values[name]
            if value.shape[1] != joints * width:
                raise ShapeError(
                    f"{self.runtime.path}: expected '{name}' with {joints} x {width} numbers a person "
                    f"({self._options.rotations}), got {value.shape[1]}"
                )
            matrices.append(to_matrix(value.reshape(len(value), joints, width)))
        return so3.log(np.concatenate(matrices, 1))

    def _output(self, outputs: dict[str, np.ndarray], name: str, count: int) -> np.ndarray:
        value = np.asarray(outputs[name], np.float64)
        if value.size % count:
            raise ShapeError(f"{self.runtime.path}: expected '{name}' for {count} people, got {value.shape}")
        return value.reshape(count, -1)

    def _translation(self, value: np.ndarray, centre: np.ndarray, side: np.ndarray, camera: Camera) -> np.ndarray:
        if value.shape[1] != 3:
            raise ShapeError(f"{self.runtime.path}: expected 3 numbers of a camera, got {value.shape[1]}")
        if self._options.camera_kind == "full":
            return value
        weak = np.column_stack([np.maximum(value[:, 0], 1e-3), value[:, 1:]])  # s <= 0 is an answer to no person
        # The principal point takes the place of the picture's middle: of a rectified camera it need not be there.
        size = np.broadcast_to([2 * camera.cx, 2 * camera.cy], (len(value), 2))
        return weak_to_full(weak, centre, side, size, np.full(len(value), camera.fx))

    def _from_own_camera(self, params: BodyParams, camera: Camera) -> BodyParams:
        focal = self._options.focal_px
        if not focal:
            return params
        own = Camera(focal, focal, camera.width / 2, camera.height / 2, camera.width, camera.height)
        people = []
        for i in range(len(params)):
            pelvis = self._body.joint_template[0] + self._body.joint_shapedirs[0] @ params.betas[i]
            people.append(in_camera(params.person(i), own, camera, pelvis))
        return BodyParams.stack(people)


def _three(text: str, name: str) -> np.ndarray:
    try:
        values = np.array([float(v) for v in text.replace(",", " ").split()], np.float32)
    except ValueError:
        values = np.zeros(0, np.float32)
    if len(values) != 3 or not np.isfinite(values).all():
        raise ConfigError(f"{name}: expected three numbers, got '{text}'")
    return values

"""Synthetic video with exact ground truth: the demo's built-in sequence and any number of others for measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..body.model import BodyModel
from ..errors import ConfigError
from ..geometry import so3
from ..geometry.camera import camera_from_fov
from ..render.protocol import SceneSurface
from ..render.warp_renderer import WarpRenderer
from ..types import BodyParams, Camera
from .backgrounds import Backgrounds, load_backgrounds, packaged_picture
from .clothing import skin
from .crops import sample_betas
from .engine import DEMO_SUBJECT, HELDOUT_SUBJECT, SynthEngine
from .lighting import Lights, hollow, sample_lights, shade
from .motion import Motion, demo_motion, random_motion, to_params
from .scenery import soften_edges

_LEVEL = np.diag([1.0, -1.0, -1.0])  # a level camera's axes in the world it looks at: x left is flipped, y down, z away
_DEMO_PICTURE = "motorcycle_left.png"


@dataclass(frozen=True, eq=False)
class SequenceFrame:
    """One rendered frame and its truth."""

    rgb: np.ndarray  # (H,W,3) uint8
    params: BodyParams  # batch of one, camera frame: the body under the clothes
    depth_m: np.ndarray  # (H,W) float32 of the dressed person, 0 on background
    visible_face: np.ndarray  # (H,W) int32, -1 where the person is not seen
    stamp_ns: int


class SyntheticSequence:
    """A person in front of a photograph; ``frame(i)`` is a pure function of the sequence's arguments and i."""

    def __init__(
        self,
        engine: SynthEngine,
        motion: Motion,
        *,
        betas: np.ndarray,
        subject: int,
        camera: Camera,
        R_camera_world: np.ndarray,
        t_camera_world: np.ndarray,
        background: np.ndarray,
        lights: Lights,
        fps: float = 30.0,
        noise_sigma: float = 2.0,
        seed: int = 0,
    ) -> None:
        self.camera, self.fps, self.subject = camera, fps, subject
        self.params = to_params(motion, engine.body, np.asarray(betas, np.float32), R_camera_world, t_camera_world)
        self._engine, self._lights, self._seed = engine, lights, seed
        self._look = engine.subject(subject)
        self._appearance = self._look.appearance()
        up = R_camera_world[:, 1]
        dressed, _ = skin(engine.wardrobe, self.params.person(0), [self._look.clothes])
        self.ground = np.array([*up, -(dressed[0] @ up).min()])  # the floor under the person's shoes, as Frame has it
        self._background = cover(background, camera.width, camera.height)
        noise = np.random.default_rng([seed, 3]).standard_normal((camera.height + 64, camera.width + 64), np.float32)
        self._noise = np.float32(noise_sigma) * noise

    def __len__(self) -> int:
        return len(self.params)

    def frame(self, index: int) -> tuple[np.ndarray, BodyParams]:
        """(H,W,3) uint8 and the truth (batch of one); indices wrap around."""
        shot = self.render(index)
        return shot.rgb, shot.params

    def render(self, index: int) -> SequenceFrame:
        """Frame ``index`` with everything that is known of it."""
        index %= len(self)
        params = self.params.person(index)
        vertices, _ = skin(self._engine.wardrobe, params, [self._look.clothes])
        x, y, width, height = window = _window(vertices[0], self.camera)
        c = self.camera
        part = Camera(
            c.fx, c.fy, c.cx - x, c.cy - y, width, height
        )  # only where the person is: whole images cost three times as much
        surface = self._engine.renderer.render_window(vertices, [self._appearance], part)
        image = self._background.copy()
        covered = surface.person_id[0] >= 0
        if covered.any():
            place = (slice(y, y + height), slice(x, x + width))
            image[place] = self._paint(image[place], surface, covered, part)
        row, column = np.random.default_rng([self._seed, 4, index]).integers(64, size=2)
        image += self._noise[row : row + c.height, column : column + c.width, None]
        rgb = np.clip(image, 0, 255, out=image).astype(np.uint8)
        depth = _pasted(surface.depth_m[0], window, c, 0.0)
        return SequenceFrame(rgb, params, depth, _pasted(surface.face_id[0], window, c, -1), round(index / self.fps * 1e9))

    def _paint(self, image: np.ndarray, surface: SceneSurface, covered: np.ndarray, camera: Camera) -> np.ndarray:
        rows, columns = np.nonzero(covered)
        depth = surface.depth_m[0]
        z = depth[rows, columns]
        position = np.stack([(columns + 0.5 - camera.cx) / camera.fx * z, (rows + 0.5 - camera.cy) / camera.fy * z, z], -1)
        colour = shade(self._lights, surface.rgb[0][rows, columns], surface.normals[0][rows, columns], position)
        colour *= hollow(depth, covered, self._lights.occlusion)[rows, columns, None]
        out = np.ascontiguousarray(image, np.float32)
        out[rows, columns] = np.clip(colour, 0, 1) * 255
        return soften_edges(out, covered)


def _window(vertices_m: np.ndarray, camera: Camera, margin: int = 6) -> tuple[int, int, int, int]:
    """x, y, width, height px of the part of the image that a body (V,3) covers; at least 32 x 32."""
    z = np.maximum(vertices_m[:, 2], 0.1)
    u, v = camera.fx * vertices_m[:, 0] / z + camera.cx, camera.fy * vertices_m[:, 1] / z + camera.cy
    out = []
    for t, length in ((u, camera.width), (v, camera.height)):
        low = int(np.clip(t.min() - margin, 0, length - 32))
        out.append((low, max(int(np.clip(t.max() + margin, 0, length)) - low, 32)))
    return out[0][0], out[1][0], out[0][1], out[1][1]


def _pasted(part: np.ndarray, window: tuple[int, int, int, int], camera: Camera, empty: float) -> np.ndarray:
    x, y, width, height = window
    out = np.full((camera.height, camera.width), empty, part.dtype)
    out[y : y + height, x : x + width] = part
    return out


def cover(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """A photograph scaled and cut to fill (height,width,3), float32 in [0,255]."""
    scale = max(width / picture.shape[1], height / picture.shape[0])
    size = (max(round(picture.shape[1] * scale), width), max(round(picture.shape[0] * scale), height))
    big = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    x, y = (size[0] - width) // 2, (size[1] - height) // 2
    return big[y : y + height, x : x + width].astype(np.float32)


def look_at_walker(height_m: float, distance_m: float, pitch_rad: float) -> tuple[np.ndarray, np.ndarray]:
    """R_camera_world (3,3) and t_camera_world (3,) of a camera at a height that looks at the world's origin from +z."""
    rotation = so3.exp(np.array([pitch_rad, 0.0, 0.0])) @ _LEVEL
    return rotation, -rotation @ np.array([0.0, height_m, distance_m])


def demo_sequence(
    body: BodyModel, renderer: WarpRenderer | None = None, frames: int = 300, fps: float = 30.0
) -> SyntheticSequence:
    """The built-in sequence: 10 s at 30 Hz, 640x480.  Subject, background and motion are never trained on."""
    renderer = renderer or WarpRenderer(body)
    picture = packaged_picture(_DEMO_PICTURE)
    engine = SynthEngine(body, renderer, Backgrounds([picture]), cache=4, texture_size=256)
    betas = np.array([0.4, -0.5, 0.3, 0.2, 0, 0, 0, 0, 0, 0], np.float32)  # somebody a little off the mean
    time_s = np.arange(frames) / fps
    motion = demo_motion(engine.wardrobe, betas, time_s)
    rotation, shift = look_at_walker(1.25, 3.0, np.radians(6))
    shift = shift - rotation @ np.array([_centred_x(motion.pelvis_m, 3.0), 0, motion.pelvis_m[len(motion) // 2, 2]])
    direction = np.float32([[-0.45, -0.75, -0.49], [0.8, -0.3, -0.52]])
    colour = np.float32([[0.55, 0.53, 0.5], [0.16, 0.17, 0.2]])
    lights = Lights(direction, colour, np.float32([0.55, 0.54, 0.53]), np.float32([0.38, 0.36, 0.34]), 0.05, 0.0, 0.8)
    return SyntheticSequence(
        engine, motion, betas=betas, subject=DEMO_SUBJECT + 14, camera=camera_from_fov(640, 480, 70.0), R_camera_world=rotation,
        t_camera_world=shift, background=picture, lights=lights, fps=fps, seed=11,
    )  # fmt: skip


def _centred_x(path_m: np.ndarray, distance_m: float) -> float:
    """World x on the camera's axis that keeps a path (T,3) as far from both sides of the picture as it can be."""
    away = distance_m + path_m[len(path_m) // 2, 2] - path_m[:, 2]
    candidates = np.linspace(path_m[:, 0].min(), path_m[:, 0].max(), 200)
    return float(candidates[np.argmin((np.abs(path_m[None, :, 0] - candidates[:, None]) / away).max(1))])


def heldout_engine(body: BodyModel, renderer: WarpRenderer | None = None, directories: Sequence[str] = ()) -> SynthEngine:
    """An engine whose subjects and backgrounds no training run uses.

    Without ``directories`` it has only the packaged photographs: the same on every machine.
    """
    backgrounds = load_backgrounds("heldout", directories)
    return SynthEngine(
        body, renderer or WarpRenderer(body), backgrounds, first_subject=HELDOUT_SUBJECT, subjects=100_000, cache=64
    )


def random_sequence(
    engine: SynthEngine,
    seed: int,
    frames: int = 60,
    fps: float = 30.0,
    size_px: tuple[int, int] = (640, 480),
    subject: int | None = None,
    near: bool = False,
) -> SyntheticSequence:
    """A sequence of its own motion, subject, shape, camera, light and background, a function of the seed.

    The person stays in the picture on average; feet or head may leave it.  ``near``: the body is half again to more than twice
    as tall as the picture, with the head in it, before a camera as high as a robot's.  ``subject`` fixes the looks, for
    measurements on certain clothes (``engine.subject(i).outfit`` tells them).
    """
    if frames < 2:
        raise ConfigError(f"expected at least 2 frames, got {frames}")
    rng = np.random.default_rng([seed, 8])
    width, height = size_px
    betas = sample_betas(rng, 1)[0]
    time_s = np.arange(frames) / fps
    motion = random_motion(rng, engine.wardrobe, betas, time_s)
    camera = camera_from_fov(width, height, float(rng.uniform(45, 90)))
    distance = camera.fy * (rng.uniform(0.7, 1.13) if near else rng.uniform(1.9, 3.4)) / height
    middle = motion.pelvis_m.mean(0)
    height_m = rng.uniform(0.4, 1.6) if near else rng.uniform(0.6, 2.2)
    aim_m = float(middle[1])
    if near:  # heads are some 0.8 m above the pelvis, and a tenth of the picture below its edge
        aim_m += 0.8 - 0.4 * height / camera.fy * distance
    pitch = np.arctan2(height_m - aim_m, distance) + np.radians(rng.normal(0, 2))
    rotation, shift = look_at_walker(height_m, distance, pitch)
    shift = shift - rotation @ np.array([middle[0] + rng.normal(0, 0.2), 0, middle[2]])
    background = engine.backgrounds.images[int(rng.integers(len(engine.backgrounds)))]
    lights = sample_lights(rng, background.mean((0, 1)) / 255)
    drawn = engine.draw_subject(rng)
    looks = drawn if subject is None else subject
    return SyntheticSequence(
        engine, motion, betas=betas, subject=looks, camera=camera, R_camera_world=rotation,
        t_camera_world=shift, background=background, lights=lights, fps=fps, noise_sigma=float(rng.uniform(0.5, 5)), seed=seed,
    )  # fmt: skip

"""EMDB (Kaufmann et al. 2023): ``P<n>/<sequence>/P<n>_<sequence>_data.pkl`` with ``images/%05d.jpg`` beside it.

The first benchmark's sequences (``emdb1``) and good frames are used; extrinsics take the world to the camera.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..body.model import pose
from ..errors import AssetError
from ..geometry import so3
from ..geometry.camera import camera_from_k, project
from ..types import BodyParams
from . import files
from .sample import PointsProtocol, Sample, Truth, box_of_points

FPS = 30.0
# As EMDB's own evaluation (evaluation_metrics.py) aligns bodies.
PROTOCOL = PointsProtocol("smpl24_hips", "24 SMPL joints of the model, aligned to the middle of the hips", root=(1, 2))


class Emdb:
    """``root`` holds the P<n> folders, ``bodies`` the gendered SMPL files."""

    name = "emdb"
    protocol: PointsProtocol = PROTOCOL

    def __init__(self, root: Path, bodies: Path | None = None, split: str = "emdb1", stride: int = 1) -> None:
        found = sorted(Path(root).glob("**/*_data.pkl"))
        if not found:
            raise AssetError(f"{root}: no *_data.pkl: expected the EMDB download with P<n>/<sequence> folders")
        if split not in ("emdb1", "emdb2"):
            raise AssetError(f"expected the split emdb1 or emdb2, got '{split}'")
        self._root, self._bodies = Path(root), files.GenderedBodies(bodies or Path(root))
        self._sequences = {path: self._read(path) for path in found if bool(files.field(files.load_mapping(path), split, path))}
        if not self._sequences:
            raise AssetError(f"{root}: none of {len(found)} sequences belongs to {split}")
        self._rows = [(path, int(i)) for path, tree in self._sequences.items() for i in np.flatnonzero(tree["good"])[::stride]]
        self.keys = tuple(_key(path, i) for path, i in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        return self._sample(*self._rows[index])

    def __iter__(self) -> Iterator[Sample]:
        return (self._sample(path, i) for path, i in self._rows)

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        tree = files.load_mapping(path)
        camera, smpl = (files.field(tree, name, path) for name in ("camera", "smpl"))
        if not isinstance(camera, Mapping) or not isinstance(smpl, Mapping):
            raise AssetError(f"{path}: expected dictionaries 'camera' and 'smpl'")

        def of(node: Mapping, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
            return files.array(files.field(node, name, path), name, path, shape)

        extrinsics = of(camera, "extrinsics", (None, 4, 4))
        frames = len(extrinsics)
        width, height = (int(files.field(camera, name, path)) for name in ("width", "height"))
        return {
            "extrinsics": extrinsics,
            "camera": camera_from_k(of(camera, "intrinsics", (3, 3)), width, height),
            "root": of(smpl, "poses_root", (frames, 3)),
            "joints": of(smpl, "poses_body", (frames, 69)),
            "trans": of(smpl, "trans", (frames, 3)),
            "betas": files.array(np.ravel(files.field(smpl, "betas", path))[:10], "betas", path, (10,)),
            "good": of(tree, "good_frames_mask", (frames,)) > 0,
            "gender": files.gender(files.field(tree, "gender", path), path),
        }

    def _sample(self, path: Path, i: int) -> Sample:
        tree = self._sequences[path]
        body, camera = self._bodies(tree["gender"]), tree["camera"]
        root, t = files.to_camera(body, tree["betas"], so3.exp(tree["root"][i]), tree["trans"][i], tree["extrinsics"][i])
        params = BodyParams(tree["betas"][None], so3.log(root)[None], tree["joints"][i].reshape(1, 23, 3), t[None])
        posed = pose(body, params)
        points, at = self.protocol.points(posed.vertices[0], posed.joints[0])
        return Sample(
            key=_key(path, i),
            sequence=_sequence(path),
            frame=i,
            fps=FPS,
            image=files.image_reader(path.parent / "images" / f"{i:05d}.jpg"),
            camera=camera,
            box_xywh=box_of_points(project(camera, posed.vertices[0])),
            truth=Truth(points, at, posed.vertices[0]),
            picture=(path.parent / "images" / f"{i:05d}.jpg").relative_to(self._root).as_posix(),
        )


def _sequence(path: Path) -> str:
    return path.name.removesuffix("_data.pkl")


def _key(path: Path, i: int) -> str:
    return f"{_sequence(path)}/{i:05d}"

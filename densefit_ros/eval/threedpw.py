"""3DPW (von Marcard et al. 2018): ``sequenceFiles/<split>/*.pkl``, ``imageFiles/<sequence>/image_%05d.jpg``.

Pictures are numbered as the rows of ``poses`` and ``cam_poses``; ``img_frame_ids`` is something else, the rows of
``poses_60Hz`` that these were taken from.  Only frames with a valid camera pose are used.  True bodies are gendered SMPL
bodies moved into the camera frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..body.model import pose
from ..errors import AssetError
from ..geometry import so3
from ..geometry.camera import camera_from_k, project
from ..types import BodyParams
from . import files
from .sample import VIEW, PointsProtocol, Sample, Truth, box_of_points, h36m14

FPS = 30.0


@dataclass(frozen=True)
class _Row:
    path: Path
    person: int
    frame: int

    @property
    def key(self) -> str:
        return f"{self.path.stem}/{self.person}/{self.frame:05d}"


class ThreeDPW:
    """``root`` holds sequenceFiles and imageFiles; ``bodies`` the SMPL files and J_regressor_h36m.npy."""

    name = "3dpw"

    def __init__(self, root: Path, bodies: Path | None = None, split: str = "test", stride: int = 1) -> None:
        self._root, self._stride = Path(root), stride
        folder = self._root / "sequenceFiles" / split
        self._files = sorted(folder.glob("*.pkl"))
        if not self._files:
            raise AssetError(f"{folder}: no sequence files (*.pkl): expected the 3DPW download with sequenceFiles/{split}")
        self._bodies = files.GenderedBodies(bodies or self._root)
        self.protocol: PointsProtocol = h36m14(files.h36m_regressor(bodies or self._root))
        self._cache: tuple[Path, dict] | None = None
        self._rows = [row for path in self._files for row in self._valid(path)]
        self.keys = tuple(row.key for row in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        return self._sample(self._rows[index])

    def __iter__(self) -> Iterator[Sample]:
        return (self._sample(row) for row in self._rows)

    def _valid(self, path: Path) -> list[_Row]:
        tree = self._read(path)
        rows = []
        for person, valid in enumerate(tree["campose_valid"]):
            rows += [_Row(path, person, int(i)) for i in np.flatnonzero(valid)[:: self._stride]]
        return rows

    def _read(self, path: Path) -> dict:
        if self._cache is not None and self._cache[0] == path:
            return self._cache[1]
        raw = files.load_mapping(path)
        names = ("poses", "betas", "trans", "genders", "campose_valid")
        lists = {name: list(files.field(raw, name, path)) for name in names}
        people = len(lists["poses"])
        if any(len(v) != people for v in lists.values()):
            raise AssetError(f"{path}: {', '.join(f'{k} of {len(v)}' for k, v in lists.items())} people do not fit together")
        cameras = files.array(files.field(raw, "cam_poses", path), "cam_poses", path, (None, 4, 4))
        frames = len(cameras)
        tree = {
            "cam_poses": cameras,
            "k": files.array(files.field(raw, "cam_intrinsics", path), "cam_intrinsics", path, (3, 3)),
            "poses": [files.array(p, "poses", path, (frames, 72)) for p in lists["poses"]],
            "trans": [files.array(p, "trans", path, (frames, 3)) for p in lists["trans"]],
            # Files hold 10 or 300 coefficients; the first 10 are meant.
            "betas": [files.array(np.ravel(b)[:10], "betas", path, (10,)) for b in lists["betas"]],
            "genders": [files.gender(g, path) for g in lists["genders"]],
            "campose_valid": [files.array(v, "campose_valid", path, (frames,)) > 0 for v in lists["campose_valid"]],
        }
        self._cache = (path, tree)
        return tree

    def _sample(self, row: _Row) -> Sample:
        tree, i, p = self._read(row.path), row.frame, row.person
        body = self._bodies(tree["genders"][p])
        betas, rotvec = tree["betas"][p], tree["poses"][p][i].reshape(24, 3)
        root, t = files.to_camera(body, betas, so3.exp(rotvec[0]), tree["trans"][p][i], tree["cam_poses"][i])
        posed = pose(body, BodyParams(betas[None], so3.log(root)[None], rotvec[None, 1:], t[None]))
        points, at = self.protocol.points(posed.vertices[0], posed.joints[0])
        sequence = row.path.stem
        picture = self._root / "imageFiles" / sequence / f"image_{i:05d}.jpg"
        k = tree["k"]
        # The files carry no size; 3DPW's pictures are centred to within a few pixels.
        camera = camera_from_k(k, round(2 * k[0, 2]), round(2 * k[1, 2]))
        return Sample(
            key=row.key,
            sequence=f"{sequence}{VIEW}{p}",
            frame=i,
            fps=FPS,
            image=files.image_reader(picture),
            camera=camera,
            box_xywh=box_of_points(project(camera, posed.vertices[0])),
            truth=Truth(points, at, posed.vertices[0]),
            picture=f"{sequence}/{picture.name}",
        )

"""What other programs found in the pictures of an offline run: first estimates, DensePose maps."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from ..body.model import BodyModel
from ..config import ADMIT_EVERYBODY, MAX_PEOPLE, Config
from ..errors import AssetError
from ..evidence.densepose import read_iuv
from ..regress.external import ExternalPerson, by_picture, for_body, in_camera, picture_index, read_people, source_camera
from ..types import NUM_JOINTS, BodyParams, Camera, Estimate, PersonResult
from .cameras import Calibrated
from .sources import Item, Source

log = logging.getLogger("densefit")

NOMINAL_SIGMA_DEG = 11.5  # how far a joint of somebody else's estimate may be off, per axis


@dataclass(frozen=True)
class GivenFiles:
    """Where they are."""

    init: Path | None = None  # first estimates, see densefit_ros.regress.external
    init_format: str = "auto"
    init_sigma_deg: float = NOMINAL_SIGMA_DEG
    densepose: Path | None = None  # folder of <picture>_IUV.png


class InitialEstimates:
    """First estimates by picture.  Raises AssetError when none belongs to the input."""

    def __init__(self, files: GivenFiles, source: Source) -> None:
        assert files.init is not None
        pictures = {p.name: p for p in getattr(source, "files", ())}
        names = list(pictures)
        index_of = picture_index(names)

        @cache
        def size(name: str, frame: int) -> tuple[int, int]:
            if source.is_video:
                raise AssetError(
                    f"{files.init}: says neither the size nor the camera of its pictures, and {source.path} is a video"
                )
            index = index_of(name)
            if index is None:
                return 1, 1  # of a picture that is not in the input: nobody will ask for its people
            path = pictures[names[index]]
            image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            if image is None:
                raise AssetError(f"{path}: not a picture, or damaged")
            return image.shape[1], image.shape[0]

        people = read_people(files.init, size, files.init_format)
        self._path, self._sigma_rad = files.init, np.radians(files.init_sigma_deg)
        self._by_index: dict[int, list[ExternalPerson]] = {}
        if source.is_video:
            for person in people:
                if person.frame >= 0:
                    self._by_index.setdefault(person.frame, []).append(person)
            if not self._by_index:
                raise AssetError(f"{files.init}: names pictures, not frames of a video: give the folder of these pictures")
        else:
            self._by_index = {i: rows for i, rows in enumerate(by_picture(people, names)) if rows}

    @property
    def most(self) -> int:
        """People in the picture with the most of them."""
        return max(len(p) for p in self._by_index.values())

    def people(self, item: Item) -> list[ExternalPerson]:
        """Those of one picture, in the file's order."""
        return self._by_index.get(item.index, [])

    def camera(self, item: Item) -> Camera | None:
        """The camera of the picture's own source; None where nobody was found."""
        people = self.people(item)
        height, width = item.rgb.shape[:2] if item.rgb is not None else (0, 0)
        return source_camera(people[0], width, height) if people and width else None

    def estimate(self, item: Item, calibrated: Calibrated, body: BodyModel) -> Estimate:
        """Everybody in the picture, for our camera: same pixel of the pelvis, same size.  Files know nothing of lenses.

        Raises AssetError when their source saw the picture in another size.
        """
        camera, bodies = calibrated.camera, []
        for person in self.people(item):
            if person.size_px not in (None, here := (camera.width, camera.height)):
                sides = "; are its numbers height, width (--format camerahmr)?" if person.size_px == here[::-1] else ""
                saw = "{}x{}".format(*person.size_px)
                raise AssetError(f"{self._path}: was made from {item.file} of {saw} px, here it has {here[0]}x{here[1]}{sides}")
            params = for_body(person.params, body)
            pelvis = body.joint_template[0] + body.joint_shapedirs[0] @ params.betas[0]
            source = source_camera(person, camera.width, camera.height)
            x, y, z = params.t_camera_root[0].astype(np.float64) + pelvis
            if z > 0:
                uv = np.array([source.fx * x / z + source.cx, source.fy * y / z + source.cy])
                du, dv = np.nan_to_num(calibrated.from_picture(uv) - uv)  # a pelvis out of the pinhole's picture stays
                source = dataclasses.replace(source, cx=source.cx + du, cy=source.cy + dv)
            bodies.append(in_camera(params, source, camera, pelvis))
        count = len(bodies)
        sigma = np.full((count, NUM_JOINTS), self._sigma_rad, np.float32)
        return Estimate(BodyParams.stack(bodies), np.ones(count, np.float32), source="external", rot_sigma_rad=sigma)

    def id_of(self, item: Item, result: PersonResult) -> str:
        """The file's own name of the person whom ``result`` began with: the one in the same pose."""
        at = result.first_estimate
        near = [np.abs(p.params.root_rotvec - at.root_rotvec).sum() + np.abs(p.params.joint_rotvec - at.joint_rotvec).sum()
                for p in self.people(item)]  # fmt: skip
        return self.people(item)[int(np.argmin(near))].person


def iuv_of(files: GivenFiles, item: Item, camera: Calibrated) -> np.ndarray | None:
    """The DensePose map of a picture (H,W,3) uint8, rectified; None where there is no file.

    Raises AssetError when it is of another size.
    """
    path = files.densepose / f"{Path(item.file).stem}_IUV.png" if files.densepose else None
    if path is None or not path.is_file():
        return None
    iuv = read_iuv(path)
    if item.rgb is not None and iuv.shape[:2] != item.rgb.shape[:2]:
        raise AssetError(f"{path}: is {iuv.shape[1]}x{iuv.shape[0]}, its picture {item.rgb.shape[1]}x{item.rgb.shape[0]}")
    return camera.rectify(iuv, nearest=True)


def check(files: GivenFiles, source: Source) -> None:
    """Raise AssetError when the folder of DensePose maps is missing or holds nothing for the input."""
    folder = files.densepose
    if folder is None:
        return
    if source.is_video:
        raise AssetError(f"{folder}: belongs to pictures, {source.path} is a video: extract its frames first")
    if not folder.is_dir():
        raise AssetError(f"{folder}: no such folder")
    if not any((folder / f"{p.stem}_IUV.png").is_file() for p in getattr(source, "files", ())):
        raise AssetError(f"{folder}: no *_IUV.png belongs to a picture of {source.path}")


def room_for(most: int, config: Config) -> int:
    """``track.max_people`` for pictures of ``most`` people; says so when they are more than a frame answers."""
    if most > MAX_PEOPLE:
        log.warning("up to %d people are given in one picture: no more than %d of them are answered", most, MAX_PEOPLE)
    return int(np.clip(most, config.track.max_people, MAX_PEOPLE))


def overrides_for(config: Config, most: int, set_by_user: Sequence[str]) -> dict[str, object]:
    """Settings of a run that starts from given estimates: nobody is searched, and time is no matter."""
    changes = {
        "regress.backend": "external", "detect.backend": "none", "displace.passes": 2, "fit.iterations": 10,
        "track.max_people": room_for(most, config), **ADMIT_EVERYBODY,
    }  # fmt: skip
    return {k: v for k, v in changes.items() if k not in set_by_user}

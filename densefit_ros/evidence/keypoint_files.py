"""Keypoints of many pictures: a folder of OpenPose files, or one JSON file in COCO's manner.

COCO's manner is either an annotation file (``images``, ``annotations``) or a list of results (``image_id``, ``keypoints``,
``score``), with 17, 25 or 33 points ``x, y, c``; as an extension ``keypoints_3d`` may hold ``x, y, z, c`` in metres and
camera axes.  Pixel centres lie at integers in both formats; half a pixel is added on reading.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..body.joints import COCO17
from ..errors import AssetError
from ..types import Keypoints
from .keypoints import MIN_POINTS, person_points, read_json, read_openpose, stacked

# COCO's visibility flag of a human annotator: 0 not labelled, 1 labelled but hidden, 2 seen.
FLAG_CONFIDENCE = np.array([0.0, 0.5, 1.0])


class KeypointFiles:
    """Keypoints by picture; everything is read and checked when this is made."""

    def __init__(self, path: str | Path) -> None:
        """A folder with ``*_keypoints.json`` or one JSON file.  Raises AssetError."""
        self.path = Path(path)
        if self.path.is_dir():
            files = sorted(self.path.glob("*_keypoints.json"))
            if not files:
                raise AssetError(f"{self.path}: expected OpenPose files *_keypoints.json, found none")
            self._by_name = {f.name.removesuffix("_keypoints.json"): read_openpose(f) for f in files}
        else:
            self._by_name = _read_coco(self.path)

    @property
    def most_people(self) -> int:
        """The largest number of people in one picture."""
        return max((int(((k.confidence > 0).sum(1) >= MIN_POINTS).sum()) for k in self._by_name.values()), default=0)

    def of(self, file: str, frame: int, is_video: bool = False) -> Keypoints | None:
        """Everybody in a picture, or in a frame of a video; None where the files do not name it.

        OpenPose names the frames of ``walk.mp4`` ``walk_000000000000``; COCO's ``image_id`` may be the frame's number.
        """
        stem = Path(file).stem
        # COCO's pictures are named by their number with zeros in front, its results by the number alone.
        names = (f"{stem}_{frame:012d}", f"{frame:012d}", str(frame)) if is_video else (stem, file, stem.lstrip("0") or "0")
        return next((self._by_name[n] for n in names if n in self._by_name), None)


def _read_coco(path: Path) -> Mapping[str, Keypoints]:
    tree = read_json(path)
    if isinstance(tree, dict) and isinstance(tree.get("people"), list):
        return {path.name.removesuffix(".json").removesuffix("_keypoints"): read_openpose(path)}
    annotated = isinstance(tree, dict)
    rows = tree.get("annotations") if annotated else tree
    if not isinstance(rows, list):
        raise AssetError(f"{path}: expected COCO's 'annotations', a list of results, or an OpenPose file with 'people'")
    names = _image_names(tree, path) if annotated else {}
    if annotated:
        _check_order(tree, path)
    people: dict[str, list[np.ndarray]] = {name: [] for name in names.values()}
    people = defaultdict(list, people)
    for i, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("image_id"), (int, str)):
            raise AssetError(f"{path}: expected 'image_id', a number or a name, in entry {i}")
        flat, deep = row.get("keypoints") or None, row.get("keypoints_3d") or None
        if flat is None and deep is None:
            continue  # an object of another kind, or a person without points
        points = person_points(flat, deep, f"'keypoints' of entry {i}", path)
        if flat is not None and annotated:
            points[:, 2] = _confidence(points[:, 2], i, path)
        if np.nanmax(points[:, 2], initial=0.0) > 0:
            people[names.get(row["image_id"], _stem(row["image_id"]))].append(points)
    return {name: stacked(group, path) for name, group in people.items()}


def _confidence(third: np.ndarray, entry: int, path: Path) -> np.ndarray:
    """Of annotations: COCO's flags (not there, hidden, seen), or what detectors write in their place."""
    if np.isin(third, (0, 1, 2)).all():
        return FLAG_CONFIDENCE[third.astype(int)]
    if third.min() < 0 or third.max() > 1:
        got = f"{third.min():g} to {third.max():g}"
        raise AssetError(
            f"{path}: expected flags 0, 1 and 2, or confidences from 0 to 1 in 'keypoints' of entry {entry}, got {got}"
        )
    return third


def _image_names(tree: Mapping[str, Any], path: Path) -> dict[Any, str]:
    try:
        names = {image["id"]: _stem(image["file_name"]) for image in tree.get("images") or []}
    except (TypeError, KeyError) as e:
        raise AssetError(f"{path}: expected 'id' and 'file_name' of every entry of 'images'") from e
    if len(set(names.values())) < len(names):
        twice = next(n for n in names.values() if list(names.values()).count(n) > 1)
        raise AssetError(f"{path}: two pictures are called {twice}: split the file by their folders")
    return names


def _check_order(tree: Mapping[str, Any], path: Path) -> None:
    """The 17 points of a category must be COCO's, by name, where the file names them."""
    for category in tree.get("categories") or []:
        names = category.get("keypoints") or () if isinstance(category, dict) else ()
        if len(names) == len(COCO17) and tuple(names) != COCO17:
            raise AssetError(f"{path}: expected the 17 keypoints in COCO's order, got {', '.join(map(str, names[:4]))}, ...")


def _stem(name: Any) -> str:
    text = Path(str(name)).name
    # An id is a number or a name; only a name can carry a suffix.
    return re.sub(r"\.[A-Za-z]{2,5}$", "", text)

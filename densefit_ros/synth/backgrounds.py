"""Photographs to put people in front of.

Always there: the pictures inside the scikit-image and scikit-learn wheels.  At training time, any directories of
pictures come on top; DENSEFIT_BACKGROUNDS names them, separated by the path separator of the system.  Debian packages
that fill such directories: gnome-backgrounds, mate-backgrounds, plasma-workspace-wallpapers, ukui-wallpapers,
lomiri-wallpapers, lomiri-wallpapers-16.04, lomiri-wallpapers-20.04 (in /usr/share/backgrounds and
/usr/share/wallpapers), palapeli-data (/usr/share/palapeli/collection), opencv-doc (/usr/share/doc/opencv-doc/examples/data).

Pictures with people in them are left out: nobody could say where the bodies are.  Every picture belongs to one split, by
its name, so that what was trained on and what is measured on never share a background: of a picture in several sizes or
colours all belong to training if one does.
"""

from __future__ import annotations

import importlib.util
import os
import re
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

import cv2
import numpy as np

from ..errors import AssetError, ConfigError

ENVIRONMENT = "DENSEFIT_BACKGROUNDS"
SPLITS = ("train", "heldout", "demo")
_LONG_SIDE_PX = 1100
# Package, folder, file -> split.  People: astronaut, camera, lfw_subset, grace_hopper; they stay test material.
_PACKAGED = {
    ("skimage", "data"): {
        "brick.png": "train", "chelsea.png": "train", "coffee.png": "heldout", "grass.png": "train", "gravel.png": "train",
        "rocket.jpg": "train", "coins.png": "train", "hubble_deep_field.jpg": "train",
        "motorcycle_left.png": "demo",
    },
    ("sklearn", "datasets/images"): {"flower.jpg": "train", "china.jpg": "heldout"},
}  # fmt: skip
_WHEELS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# In a picture's path below its directory: drawings, people, patterns for calibration.
_SKIPPED = re.compile(
    r"screenshot|konqui|friends_by|life_by|logo|_dark/|messi|basketball|/left|/right|sudoku|text|digits|/pic\d|pca_|chessboard"
    r"|puzzletable"
)
# Of one picture a package may have several sizes and a dark one.
_VARIANT = re.compile(r"([-_](l|d|light|dark|\d+x\d+))+$")
_HELDOUT_SHARE = 0.15


class Backgrounds:
    """A bank of uint8 RGB photographs and ways to cut them."""

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        if not images:
            raise AssetError("expected at least one background picture, got none")
        self.images = tuple(images)
        # Half and quarter size: shrinking a large window anew for every crop would cost more than rendering it.
        self._levels = [self.images]
        for _ in range(2):
            self._levels.append(
                tuple(cv2.resize(i, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for i in self._levels[-1])
            )

    def __len__(self) -> int:
        return len(self.images)

    def cut(self, rng: np.random.Generator, size: int, crisp: bool = False) -> np.ndarray:
        """(size,size,3) uint8 window at a random place and scale, flipped and recoloured now and then.

        ``crisp``: of as many pixels, where the picture has them.
        """
        which = int(rng.integers(len(self.images)))
        share = float(np.exp(rng.uniform(np.log(0.22), 0.0)))
        if crisp:
            share = min(max(share, size / min(self.images[which].shape[:2])), 1.0)
        level = 0
        while level < 2 and share * min(self._levels[level + 1][which].shape[:2]) >= size:
            level += 1
        image = self._levels[level][which]
        height, width = image.shape[:2]
        side = max(int(min(height, width) * share), 12)
        x, y = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
        window = image[y : y + side, x : x + side]
        out = cv2.resize(window, (size, size), interpolation=cv2.INTER_LINEAR)
        if rng.random() < 0.5:
            out = out[:, ::-1]
        u = rng.random()
        if u < 0.06:
            out = out[::-1]
        elif u < 0.12:
            out = out.transpose(1, 0, 2)
        if rng.random() < 0.15:
            out = out[:, :, rng.permutation(3)]
        return np.ascontiguousarray(out)

    def scene(self, rng: np.random.Generator, size: int, crisp: bool = False) -> np.ndarray:
        """A window, often in front of a ground plane of another picture, with pasted patches of others as clutter.

        ``crisp``: not blown up and in focus.
        """
        out = self.cut(rng, size, crisp) if rng.random() < 0.88 else _wall(rng, size)
        if rng.random() < 0.25:  # ground: another picture squeezed towards a horizon
            horizon = int(size * rng.uniform(0.25, 0.8))
            out[horizon:] = self._ground(rng, size, size - horizon)
        for _ in range(rng.choice(4, p=[0.35, 0.3, 0.2, 0.15])):
            w, h = (max(int(size * rng.uniform(0.06, 0.6)), 4) for _ in range(2))
            x, y = int(rng.integers(-w // 2, size - w // 2)), int(rng.integers(-h // 2, size - h // 2))
            patch = cv2.resize(self.cut(rng, 64), (w, h), interpolation=cv2.INTER_LINEAR)
            x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, size), min(y + h, size)
            part = patch[y0 - y : y1 - y, x0 - x : x1 - x]
            if rng.random() < 0.4:  # rounded
                mask = np.zeros((h, w), np.uint8)
                cv2.ellipse(mask, (w // 2, h // 2), (w // 2, h // 2), 0, 0, 360, 255, -1)
                inside = mask[y0 - y : y1 - y, x0 - x : x1 - x, None] > 0
                out[y0:y1, x0:x1] = np.where(inside, part, out[y0:y1, x0:x1])
            else:
                out[y0:y1, x0:x1] = part
        if rng.random() < 0.45 and not crisp:  # out of focus, as behind a person
            out = cv2.GaussianBlur(out, (0, 0), float(rng.uniform(0.4, 2.6)))
        return out

    def _ground(self, rng: np.random.Generator, size: int, rows: int) -> np.ndarray:
        source = self.cut(rng, size)
        far, shift = rng.uniform(0.5, 3.0), rng.uniform(-0.5, 0.5) * size
        quad = np.float32([[size * (0.5 - far) + shift, 0], [size * (0.5 + far) + shift, 0], [size, size], [0, size]])
        target = np.float32([[0, 0], [size, 0], [size * rng.uniform(1.0, 1.6), rows], [-size * rng.uniform(0, 0.6), rows]])
        m = cv2.getPerspectiveTransform(quad, target)
        return cv2.warpPerspective(source, m, (size, rows), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _wall(rng: np.random.Generator, size: int) -> np.ndarray:
    """A painted wall, brighter on one side: what rooms mostly show and landscapes never."""
    corner = np.clip(rng.uniform(60, 235) + rng.normal(0, 14, 3) + rng.normal(0, 22, (2, 2, 1)), 0, 255)
    return cv2.resize(corner.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR).astype(np.uint8)


def load_backgrounds(split: str = "train", directories: Sequence[str | Path] | None = None, limit: int = 400) -> Backgrounds:
    """The bank of one split: "train", "heldout" or "demo".

    ``directories`` default to those of the environment variable DENSEFIT_BACKGROUNDS.  At most ``limit`` pictures are
    kept, in the order of their names.  Raises AssetError when a named directory is missing or "heldout" lacks a wheel that it
    draws on, ConfigError for an unknown split.
    """
    if split not in SPLITS:
        raise ConfigError(f"expected a split of {SPLITS}, got {split!r}")
    if directories is None:
        directories = [d for d in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if d]
    packaged = packaged_pictures()
    paths = [p for p, s in packaged if s == split]
    if split == "heldout":  # what is measured must not depend on what happens to be installed
        _require_packaged(split, {p.name for p, _ in packaged})
    if split != "demo":
        for directory in directories:
            found = directory_pictures(Path(directory))
            if not found:
                raise AssetError(f"{directory}: holds no picture that could be a background (.jpg, .png, .webp of 30 kB to 9 MB)")
            trained = {_family(p) for p in found if split_of(p) == "train"}
            paths += [p for p in found if (_family(p) in trained) == (split == "train")]
    images = []
    for path in paths[:limit]:
        image = _load(path)
        if image is not None and (
            path.parent.name in ("data", "images") and "site-packages" in str(path) or is_photographic(image)
        ):
            images.append(image)
    return Backgrounds(images)


def packaged_pictures() -> list[tuple[Path, str]]:
    """(path, split) of the photographs inside installed wheels."""
    out = []
    for (package, folder), files in _PACKAGED.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        for name, split in files.items():
            path = Path(spec.origin).parent / folder / name
            if path.exists():
                out.append((path, split))
    return out


def _require_packaged(split: str, found: Collection[str]) -> None:
    for (package, _), files in _PACKAGED.items():
        missing = [name for name, own in files.items() if own == split and name not in found]
        if missing:
            raise AssetError(
                f"held-out backgrounds: {missing[0]} of {_WHEELS[package]} is missing, and without it numbers would differ: "
                f"pip install {_WHEELS[package]}"
            )


def packaged_picture(name: str) -> np.ndarray:
    """One packaged photograph as (H,W,3) uint8.  Raises AssetError when no installed wheel has it."""
    for path, _ in packaged_pictures():
        if path.name == name:
            image = _load(path)
            if image is not None:
                return image
    raise AssetError(f"expected the picture {name} inside scikit-image or scikit-learn: reinstall them")


def directory_pictures(directory: Path) -> list[Path]:
    """Picture files below a directory, sorted, without thumbnails, links and known drawings."""
    if not directory.is_dir():
        raise AssetError(f"expected a directory of background pictures, got {directory}: not a directory")
    found = []
    for path in sorted(directory.rglob("*")):
        text = "/" + path.relative_to(directory).as_posix().lower()
        if (
            path.suffix.lower() in _PICTURE_SUFFIXES
            and path.is_file()
            and not path.is_symlink()
            and 30_000 < path.stat().st_size < 9_000_000
        ):
            if not _SKIPPED.search(text):
                found.append(path)
    return found


def split_of(path: Path) -> str:
    """ "train" or "heldout": as its folder is called, or else by the last parts of the full name only, the same on every machine
    and from every folder."""
    parts = Path(os.path.abspath(path)).parts
    if parts[-2] in ("train", "heldout"):
        return parts[-2]
    key = "/".join(parts[-4:]).encode()
    return "heldout" if zlib.crc32(key) % 1000 < 1000 * _HELDOUT_SHARE else "train"


def _family(path: Path) -> tuple[Path, str]:
    """What a picture has in common with its other sizes and colours."""
    for parent in path.parents:
        if parent.name == "images" and parent.parent.name == "contents":  # wallpapers of Plasma: .../NAME/contents/images/WxH.jpg
            return parent.parent.parent, ""
    return path.parent, _VARIANT.sub("", path.stem.lower())


def is_photographic(image: np.ndarray) -> bool:
    """False for flat graphics: most of a drawing is smooth to the last bit, a photograph is not."""
    small = cv2.resize(image, (256, 160), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = np.abs(grey - cv2.blur(grey, (3, 3)))
    return float((detail < 0.6).mean()) < 0.62 and float(grey.std()) > 12


def _load(path: Path) -> np.ndarray | None:
    # Decoding wallpapers of 15 megapixels would take most of a worker's start.
    large = path.stat().st_size > 1_200_000
    data = cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_2 if large else cv2.IMREAD_COLOR)
    if data is None:
        return None
    scale = _LONG_SIDE_PX / max(data.shape[:2])
    if scale < 1:
        data = cv2.resize(data, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(data[:, :, ::-1])

#!/usr/bin/env python3
"""The photographs of ``scripts/backgrounds.tsv``, out of Debian packages, as one directory of background pictures.

What is in its folder ``heldout`` is measured before, and never trained on.

    mkdir -p ROOT && apt-get download NAME && dpkg-deb -x NAME_*.deb ROOT/NAME      for every package that the list names
    scripts/gather_backgrounds.py ROOT --out runs/backgrounds

Some of the packages are in newer releases of Debian than others; a version beside the listed one serves as well where its file
has the same name, but numbers then differ.  JPEG XL needs ``djxl`` (libjxl-tools).  Everything listed was looked at: nobody is in
it.  A listed file that is missing ends the run, so that nobody trains on less without knowing.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np

LIST = Path(__file__).with_name("backgrounds.tsv")
LONG_SIDE_PX = 1100


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="holds a directory for each package, extracted")
    parser.add_argument("--out", type=Path, required=True, help="directory for the pictures")
    args = parser.parse_args()
    rows = [line.split("\t") for line in LIST.read_text().splitlines() if line and not line.startswith("#")]
    missing = [path for _, package, path, _ in rows if not (args.root / package / path).is_file()]
    if missing:
        raise SystemExit(f"{len(missing)} of {len(rows)} listed files are not below {args.root}, the first: {missing[0]}")
    for split in ("train", "heldout"):
        (args.out / split).mkdir(parents=True, exist_ok=True)
    for name, package, path, split in rows:
        picture = opaque(read(args.root / package / path))
        scale = LONG_SIDE_PX / max(picture.shape[:2])
        if scale < 1:
            picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(args.out / split / f"{name}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
    print(f"{len(rows)} pictures in {args.out}")
    return 0


def read(path: Path) -> np.ndarray:
    """Pixels as the file has them.  Raises SystemExit where they cannot be read."""
    with tempfile.TemporaryDirectory() as folder:
        if path.suffix == ".jxl":
            png = Path(folder) / "picture.png"
            subprocess.run(["djxl", str(path), str(png)], check=True, capture_output=True)
            path = png
        large = path.stat().st_size >= 4_000_000
        picture = cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_2 if large else cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise SystemExit(f"cannot read {path}")
    return picture


def opaque(picture: np.ndarray) -> np.ndarray:
    """(H,W,3) uint8 of a picture with any depth and number of channels."""
    if picture.dtype != np.uint8:
        picture = (picture / 256).astype(np.uint8)
    return cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR) if picture.ndim == 2 else picture[..., :3]


if __name__ == "__main__":
    raise SystemExit(main())

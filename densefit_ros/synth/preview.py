"""``densefit train preview``: a contact sheet of what the networks are trained on."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from ..body.assets import load_body
from ..body.model import rest_joints
from ..errors import ConfigError
from ..render.warp_renderer import WarpRenderer
from .backgrounds import load_backgrounds
from .crops import CropBatch, make_crops
from .displacement import STRIDE_PX, DisplacementPairs, make_pairs
from .engine import SynthEngine
from .perturb import disturb


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="densefit train preview", description=__doc__.replace("``", ""))
    parser.add_argument("--out", type=Path, default=Path("out/preview.png"), help="picture to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=24, help="number of people (default: %(default)s)")
    parser.add_argument("--size", type=int, default=192, help="crop side in px (default: %(default)s)")
    parser.add_argument("--backgrounds", nargs="*", default=None, metavar="DIR", help="directories of photographs")
    args = parser.parse_args(argv)
    if not cv2.haveImageWriter(str(args.out)):
        raise ConfigError(f"--out expects a picture, such as preview.png, got {args.out}")
    body = load_body()
    engine = SynthEngine(body, WarpRenderer(body), load_backgrounds("train", args.backgrounds), subjects=max(args.count, 8))
    rng = np.random.default_rng(args.seed)
    batch = make_crops(rng, engine, args.count, args.size)
    start = disturb(rng, batch.params, rest_joints(body, batch.params.betas)[:, 0])
    sheet = contact_sheet(batch, make_pairs(rng, engine, batch, start))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out), sheet[:, :, ::-1])
    print(f"wrote {args.out}: {len(batch)} people, {int(batch.labelled.sum())} labelled")
    return 0


def contact_sheet(batch: CropBatch, pairs: DisplacementPairs, columns: int = 4) -> np.ndarray:
    """RGB sheet: per person the picture with its flow arrows, the rendering, and the true outline on the picture."""
    tiles = [np.hstack([_arrows(batch, pairs, i), _rendering(pairs, i), _outline(batch, i)]) for i in range(len(batch))]
    while len(tiles) % columns:
        tiles.append(np.zeros_like(tiles[0]))
    return np.vstack([np.hstack(tiles[k : k + columns]) for k in range(0, len(tiles), columns)])


def _arrows(batch: CropBatch, pairs: DisplacementPairs, i: int) -> np.ndarray:
    out = batch.rgb[i].copy()
    for r, c in zip(*np.nonzero(pairs.valid[i])):
        if r % 2 or c % 2:
            continue
        x, y = c * STRIDE_PX + 2.5, r * STRIDE_PX + 2.5
        dx, dy = pairs.flow[i, :, r, c]
        colour = (0, 255, 0) if pairs.visible[i, r, c] else (255, 0, 0)
        cv2.line(out, (int(x), int(y)), (int(x + dx), int(y + dy)), colour, 1, cv2.LINE_AA)
    return out


def _rendering(pairs: DisplacementPairs, i: int) -> np.ndarray:
    return (pairs.surface.rgb[i] * 255).astype(np.uint8)


def _outline(batch: CropBatch, i: int) -> np.ndarray:
    out = batch.rgb[i].copy()
    mask = (batch.visible_face[i] >= 0).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(out, contours, -1, (255, 255, 0), 1)
    for (x, y), seen in zip(batch.joints_px[i], batch.joint_visible[i]):
        if -1000 < x < 2000 and -1000 < y < 2000:
            cv2.circle(out, (int(x), int(y)), 2, (0, 255, 0) if seen else (255, 0, 0), -1)
    text = f"{batch.confidence[i]:.1f} {batch.visible_share[i]:.1f}{'' if batch.labelled[i] else ' -'}"
    cv2.putText(out, text, (2, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return out

"""What one synthetic person wears, as numbers: drawn once per subject, then painted and turned into geometry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .surface import SurfacePoints, smooth_step


@dataclass(frozen=True)
class Outfit:
    """Lengths along limbs count joints (0 shoulder or hip, 1 elbow or knee, 2 wrist or ankle); offsets are metres."""

    sleeve: float  # end of the top's sleeve; below 0 sleeveless
    hem: float  # lower end of the top in trunk units (0 hips' height, negative on the thighs)
    neckline: float  # upper end of the top in trunk units
    top_loose: float
    trouser: float  # end of trousers or shorts
    bottom_loose: float
    skirt: float  # end of a skirt or dress along the legs, 0 for none
    skirt_flare: float  # widening at the hem, m
    jacket: float  # looseness of an outer layer, 0 for none
    coat: bool  # the jacket goes on below the hips, as what ``skirt`` describes
    jacket_open: float  # half width of the open front, m
    shoe_height: float  # upper end of shoes along the leg, near 2
    shoe_loose: float
    hair: float  # -1 bald .. 1 covers down to the neck
    hair_volume: float
    long_hair: float  # how far it falls down the back, trunk units from the neck
    fall_volume: float  # of long hair below the skull, m
    fall_front: float  # largest forward part of the surface's normal that long hair covers: -0.1 the back, 0.6 shoulders too
    hat: bool
    beard: float
    backpack: float  # depth of a backpack, 0 for none
    gloves: bool
    wrinkle: float  # height of folds relative to looseness


def sample_outfit(rng: np.random.Generator) -> Outfit:
    """A plausible combination of garments."""
    u, v = rng.uniform, rng.spawn(1)[0].uniform  # v: for what was added later, so that older subjects keep their looks
    skirt = rng.random() < 0.16
    dress = skirt and rng.random() < 0.6
    shorts = rng.random() < (0.75 if skirt else 0.27)  # bare legs under most skirts
    jacket = rng.random() < 0.28
    coat = jacket and not skirt and v() < 0.35
    loose = rng.choice([u(0.002, 0.008), u(0.008, 0.022), u(0.022, 0.045)], p=[0.35, 0.42, 0.23])
    return Outfit(
        sleeve=float(rng.choice([u(-0.2, 0.0), u(0.35, 0.75), u(0.9, 1.4), u(1.8, 2.02)], p=[0.1, 0.46, 0.1, 0.34])),
        hem=float(u(-0.22, 0.05)) if rng.random() < 0.75 else float(u(0.05, 0.25)),
        neckline=float(u(0.9, 1.05)),
        top_loose=float(loose),
        trouser=float(u(0.25, 1.1) if shorts else u(1.75, 2.03)),
        bottom_loose=float(u(0.004, 0.012) if rng.random() < 0.45 else u(0.012, 0.04)),
        skirt=float(u(0.45, 1.75)) if skirt else float(v(0.35, 1.25)) if coat else 0.0,
        skirt_flare=float(u(0.02, 0.12)) if skirt else float(v(0.0, 0.06)) if coat else 0.0,
        jacket=float(u(0.02, 0.055)) if jacket and not dress else 0.0,
        coat=bool(coat),
        jacket_open=float(u(0.02, 0.10)) if rng.random() < 0.55 else 0.0,
        shoe_height=float(rng.choice([u(1.97, 2.05), u(1.75, 1.95), u(1.2, 1.6)], p=[0.72, 0.22, 0.06])),
        shoe_loose=float(u(0.004, 0.016)),
        hair=float(rng.choice([-1.0, u(-0.2, 0.35), u(0.35, 1.0)], p=[0.08, 0.52, 0.40])),
        hair_volume=float(u(0.004, 0.035)),
        long_hair=float(u(0.05, 0.45)) if rng.random() < 0.28 else 0.0,
        fall_volume=float(v(0.01, 0.05)),
        fall_front=float(v(-0.1, 0.6)),
        hat=bool(rng.random() < 0.14),
        beard=float(u(0.2, 1.0)) if rng.random() < 0.16 else 0.0,
        backpack=float(u(0.06, 0.15)) if rng.random() < 0.07 else 0.0,
        gloves=bool(rng.random() < 0.04),
        wrinkle=float(u(0.1, 0.6)),
    )


@dataclass(frozen=True, eq=False)
class Coverage:
    """Soft masks (N,) in [0,1] of what covers each surface point; outer layers win."""

    top: np.ndarray
    bottom: np.ndarray
    skirt: np.ndarray
    jacket: np.ndarray
    shoes: np.ndarray
    hair: np.ndarray
    fall: np.ndarray  # the part of the hair that hangs below the skull
    hat: np.ndarray
    beard: np.ndarray
    backpack: np.ndarray
    gloves: np.ndarray


def coverage(outfit: Outfit, points: SurfacePoints, edge: float = 0.03) -> Coverage:
    """Masks of one outfit on given points; ``edge`` is the softness of hems, in the units of the coordinates."""
    e = max(edge, 1e-3)
    on_arm, on_leg = smooth_step(points.arm, 0.35, 0.65), smooth_step(points.leg, 0.5, 0.75)
    trunk = np.clip(1 - smooth_step(points.head, 0.4, 0.6), 0, 1)
    # The shoulder's own skinning reaches into the trunk: what lies inside the shoulder joint counts as trunk.
    sleeve = 1 - smooth_step(points.along_arm, outfit.sleeve - e, outfit.sleeve + e)
    above_hem = smooth_step(points.up_trunk, outfit.hem - e, outfit.hem + e)
    y = points.position[:, 1]
    neck_dip = 0.10 * np.exp(-((points.position[:, 0] / 0.06) ** 2)) * (points.normal[:, 2] > 0)
    below_neck = 1 - smooth_step(points.up_trunk + neck_dip, outfit.neckline - e, outfit.neckline + e)
    arm_part = on_arm * sleeve
    top = trunk * ((1 - on_arm) * above_hem * below_neck + arm_part)
    waist = 1 - smooth_step(points.up_trunk, 0.20 - e, 0.20 + e)
    low_body = (1 - on_arm) * waist
    bottom = low_body * (1 - smooth_step(points.along_leg, outfit.trouser - e, outfit.trouser + e))
    skirt = low_body * (1 - smooth_step(points.along_leg, outfit.skirt - e, outfit.skirt + e)) if outfit.skirt > 0 else 0 * y
    jacket = 0 * y
    if outfit.jacket > 0:
        front = (points.normal[:, 2] > 0) & (np.abs(points.position[:, 0]) < outfit.jacket_open)
        long_sleeve = 1 - smooth_step(points.along_arm, 1.9 - e, 1.9 + e)
        on_trunk = (1 - on_arm) * smooth_step(points.up_trunk, min(outfit.hem, 0.0) - 0.05 - e, min(outfit.hem, 0.0) - 0.05 + e)
        jacket = trunk * (on_trunk * (points.up_trunk < 1.02) + on_arm * long_sleeve) * (1.0 - front)
    shoes = smooth_step(points.along_leg, outfit.shoe_height - e, outfit.shoe_height + e) * on_leg
    d = points.head_direction
    is_head = smooth_step(points.head, 0.5, 0.8)
    # Scalp: up and back.  A larger ``hair`` moves the border down; the face stays free.
    scalp = smooth_step(0.72 * d[:, 1] - 0.70 * d[:, 2] + 0.55 * outfit.hair, 0.22, 0.32)
    hair = is_head * scalp if outfit.hair > -0.9 else 0 * y
    fall = 0 * y
    if outfit.long_hair > 0:
        width = np.abs(points.position[:, 0]) < 0.15
        low = (points.up_trunk > 1.0 - outfit.long_hair) & (points.up_trunk < 1.6)
        fall = 1.0 * (low & (points.normal[:, 2] < outfit.fall_front) & (d[:, 2] < 0.3) & width & (points.arm < 0.5))
        hair = np.maximum(hair, fall)
    hat = is_head * smooth_step(d[:, 1] - 0.18 * d[:, 2], 0.30, 0.36) if outfit.hat else 0 * y
    beard = outfit.beard * is_head * smooth_step(-d[:, 1] + 0.5 * d[:, 2], 0.75, 0.9) * (d[:, 2] > 0.1)
    pack = 0 * y
    if outfit.backpack > 0:
        inside = (np.abs(points.position[:, 0]) < 0.15) & (points.arm < 0.4)
        pack = inside * smooth_step(-points.normal[:, 2], 0.1, 0.4) * smooth_step(points.up_trunk, 0.25, 0.33)
        pack = pack * (1 - smooth_step(points.up_trunk, 0.88, 0.97))
    gloves = on_arm * smooth_step(points.along_arm, 1.97, 2.03) if outfit.gloves else 0 * y
    return Coverage(top, bottom, skirt, jacket, shoes, hair, fall, hat, beard, pack, gloves)

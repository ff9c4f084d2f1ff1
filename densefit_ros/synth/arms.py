"""What an arm does in a posture; see :mod:`densefit_ros.synth.archetypes`.  Names carry no side: either arm can do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np


def arm_hang(rng: np.random.Generator) -> dict[str, float]:
    return _arm(rng.normal(2, 9), rng.uniform(7, 20), rng.normal(8, 14), abs(rng.normal(14, 13)), rng.normal(10, 18))


def arm_swing(rng: np.random.Generator) -> dict[str, float]:
    flex = rng.normal(0, 24)
    return _arm(flex, rng.uniform(7, 17), rng.normal(10, 10), 14 + max(flex, 0) * 0.9 + abs(rng.normal(0, 8)), rng.normal(15, 15))


def arm_run(rng: np.random.Generator) -> dict[str, float]:
    return _arm(rng.uniform(-45, 40), rng.uniform(8, 25), rng.uniform(5, 35), rng.uniform(70, 115), rng.normal(0, 15)) | {
        "fingers": 35.0
    }


def arm_hip(rng: np.random.Generator) -> dict[str, float]:
    return _arm(rng.uniform(-30, -14), rng.uniform(42, 55), rng.uniform(38, 52), rng.uniform(84, 98), rng.uniform(-30, 40)) | {
        "wrist_flex": 35.0
    }


def arm_fold(rng: np.random.Generator) -> dict[str, float]:
    return _arm(rng.uniform(20, 32), rng.uniform(8, 18), rng.uniform(40, 55), rng.uniform(88, 105), rng.uniform(0, 50))


def arm_forward(rng: np.random.Generator) -> dict[str, float]:
    return _arm(
        rng.uniform(45, 105),
        rng.uniform(-12, 25),
        rng.normal(10, 20),
        rng.choice([rng.uniform(2, 25), rng.uniform(20, 75)]),
        rng.normal(10, 30),
    )


def arm_up(rng: np.random.Generator) -> dict[str, float]:
    return _arm(
        rng.uniform(125, 172),
        rng.uniform(0, 28),
        rng.normal(0, 20),
        rng.choice([rng.uniform(2, 25), rng.uniform(20, 95)]),
        rng.normal(0, 30),
    )


def arm_side(rng: np.random.Generator) -> dict[str, float]:
    return _arm(
        rng.normal(0, 10),
        rng.uniform(50, 110),
        rng.uniform(-30, 35),
        rng.choice([rng.uniform(2, 20), rng.uniform(20, 100)]),
        rng.normal(0, 30),
    )


def arm_side_up(rng: np.random.Generator) -> dict[str, float]:
    return _arm(rng.normal(0, 8), rng.uniform(110, 160), rng.normal(0, 15), rng.uniform(2, 60), rng.normal(0, 25))


def arm_wave(rng: np.random.Generator) -> dict[str, float]:
    return _arm(rng.uniform(0, 20), rng.uniform(65, 100), rng.uniform(-70, -50), rng.uniform(70, 115), rng.normal(0, 25)) | {
        "fingers": 2.0
    }


def arm_talk(rng: np.random.Generator) -> dict[str, float]:
    return _arm(rng.uniform(5, 40), rng.uniform(8, 28), rng.uniform(-25, 30), rng.uniform(55, 110), rng.normal(-5, 35))


def arm_face(rng: np.random.Generator) -> dict[str, float]:
    return _arm(rng.uniform(45, 72), rng.uniform(0, 18), rng.uniform(12, 30), rng.uniform(125, 140), rng.normal(0, 20))


def arm_phone(rng: np.random.Generator) -> dict[str, float]:
    return _arm(rng.uniform(30, 55), rng.uniform(22, 40), rng.uniform(0, 15), rng.uniform(130, 143), rng.normal(0, 15))


def arm_behind_head(rng: np.random.Generator) -> dict[str, float]:
    return _arm(rng.uniform(5, 25), rng.uniform(125, 150), rng.uniform(-40, -15), rng.uniform(115, 140), rng.normal(0, 15))


def arm_behind_back(rng: np.random.Generator) -> dict[str, float]:
    return _arm(rng.uniform(-35, -22), rng.uniform(16, 30), rng.uniform(55, 75), rng.uniform(45, 80), rng.normal(10, 15))


def arm_carry(rng: np.random.Generator) -> dict[str, float]:
    return _arm(rng.uniform(10, 38), rng.uniform(8, 20), rng.uniform(5, 25), rng.uniform(70, 105), rng.uniform(-60, 0))


def arm_lap(rng: np.random.Generator) -> dict[str, float]:
    return _arm(rng.uniform(18, 38), rng.uniform(8, 18), rng.uniform(10, 32), rng.uniform(42, 78), rng.normal(15, 15))


def arm_down_forward(rng: np.random.Generator) -> dict[str, float]:
    return _arm(rng.uniform(35, 120), rng.uniform(0, 22), rng.normal(5, 15), rng.uniform(2, 45), rng.normal(10, 20))


def arm_across(rng: np.random.Generator) -> dict[str, float]:
    return _arm(rng.uniform(65, 100), rng.uniform(-34, -15), rng.normal(20, 15), rng.uniform(10, 80), rng.normal(10, 20))


def arm_any(rng: np.random.Generator) -> dict[str, float]:
    return _arm(rng.uniform(-40, 165), rng.uniform(8, 120), rng.uniform(-55, 65), rng.uniform(3, 135), rng.uniform(-60, 60))


def _arm(flex: float, abd: float, inward: float, elbow: float, pronation: float) -> dict[str, float]:
    return {"arm_flex": flex, "arm_abd": abd, "arm_in": inward, "elbow": elbow, "pronation": pronation, "fingers": 10.0}


ARMS: Mapping[str, Callable[[np.random.Generator], dict[str, float]]] = {
    f.__name__.removeprefix("arm_"): f
    for f in (
        arm_hang, arm_swing, arm_run, arm_hip, arm_fold, arm_forward, arm_up, arm_side, arm_side_up, arm_wave, arm_talk, arm_face,
        arm_phone, arm_behind_head, arm_behind_back, arm_carry, arm_lap, arm_down_forward, arm_across, arm_any,
    )
}  # fmt: skip

"""Building blocks of human postures: what the legs and trunk do, what an arm does; drawn independently and combined.

Each block is a function ``(rng) -> {name: degrees}`` over the degrees of freedom of :mod:`densefit_ros.synth.dof`.
These blocks name both legs and the trunk; what an arm does is in :mod:`densefit_ros.synth.arms`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .gait import gait

Block = Callable[[np.random.Generator], dict[str, float]]


def stand(rng: np.random.Generator) -> dict[str, float]:
    d = {}
    for s in "LR":
        d |= {f"{s}.leg_abd": rng.uniform(0, 8), f"{s}.leg_out": rng.uniform(-2, 18), f"{s}.knee": rng.uniform(0, 8)}
        d[f"{s}.leg_flex"] = 0.5 * d[f"{s}.knee"] + rng.normal(0, 1.5)
        d[f"{s}.ankle"] = d[f"{s}.leg_flex"] - d[f"{s}.knee"]
    return d | _upright(rng)


def contrapposto(rng: np.random.Generator) -> dict[str, float]:
    lean = rng.uniform(3, 8)
    d = stand(rng)
    knee = rng.uniform(12, 35)
    d |= {
        "pelvis_roll": lean,
        "side": -lean * 1.3,
        "L.leg_abd": lean + rng.uniform(0, 6),
        "R.leg_abd": -lean + rng.uniform(-1, 3),
    }
    d |= {
        "L.knee": knee,
        "L.leg_flex": 0.6 * knee,
        "L.ankle": rng.uniform(-5, 12),
        "L.leg_out": rng.uniform(5, 28),
        "R.knee": 1.0,
    }
    return d


def wide_stance(rng: np.random.Generator) -> dict[str, float]:
    a, k = rng.uniform(10, 32), rng.uniform(0, 22)
    d = _upright(rng)
    for s in "LR":
        d |= {f"{s}.leg_abd": a + rng.normal(0, 3), f"{s}.leg_out": rng.uniform(5, 30), f"{s}.knee": k, f"{s}.leg_flex": 0.5 * k}
        d |= {f"{s}.ankle": -0.5 * k, f"{s}.ankle_in": -0.4 * a}
    return d


def walk(rng: np.random.Generator) -> dict[str, float]:
    return gait(rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.25), 0.0) | {
        "neck_turn": rng.normal(0, 22),
        "neck_bend": rng.normal(3, 8),
    }


def run(rng: np.random.Generator) -> dict[str, float]:
    return gait(rng.uniform(0, 2 * np.pi), rng.uniform(1.0, 1.5), rng.uniform(0.6, 1.0)) | {"neck_turn": rng.normal(0, 12)}


def sit(rng: np.random.Generator) -> dict[str, float]:
    lean = rng.choice([rng.uniform(-25, -5), rng.uniform(-5, 12), rng.uniform(10, 40)], p=[0.35, 0.4, 0.25])
    spread = abs(rng.normal(6, 9))
    d = {
        "pelvis_pitch": lean * 0.7 - 5,
        "bend": rng.uniform(0, 25) + 0.3 * max(lean, 0),
        "side": rng.normal(0, 6),
        "turn": rng.normal(0, 12),
    }
    for s in "LR":
        thigh = rng.normal(84, 7)
        flex = thigh + d["pelvis_pitch"]
        d |= {f"{s}.leg_flex": flex, f"{s}.leg_abd": spread + rng.normal(0, 2), f"{s}.leg_out": rng.uniform(-8, 14)}
        d |= {f"{s}.knee": np.clip(thigh + rng.normal(0, 14), 20, 125), f"{s}.ankle": rng.normal(0, 8)}
    if rng.random() < 0.18:  # legs crossed, left over right
        d |= {
            "L.leg_flex": d["R.leg_flex"] + 13,
            "L.leg_abd": -15,
            "R.leg_abd": -3,
            "L.knee": rng.uniform(60, 95),
            "L.leg_out": -4,
        }
    return d | _look(rng)


def floor_sit(rng: np.random.Generator) -> dict[str, float]:
    back = rng.uniform(-25, 10)
    d = {"pelvis_pitch": back, "bend": rng.uniform(10, 40), "turn": rng.normal(0, 8)}
    if rng.random() < 0.45:  # cross-legged
        for s in "LR":
            d |= {f"{s}.leg_flex": rng.uniform(75, 95), f"{s}.leg_abd": rng.uniform(35, 52), f"{s}.leg_out": rng.uniform(25, 45)}
            d |= {f"{s}.knee": rng.uniform(115, 138), f"{s}.ankle": 20}
    else:  # legs out, knees more or less drawn up
        for s in "LR":
            knee = rng.uniform(5, 110)
            d |= {
                f"{s}.knee": knee,
                f"{s}.leg_flex": 88 + 0.42 * knee + back,
                f"{s}.leg_abd": rng.uniform(-2, 15),
                f"{s}.ankle": rng.uniform(0, 25),
            }
    return d | _look(rng)


def squat(rng: np.random.Generator) -> dict[str, float]:
    depth = rng.uniform(0.3, 1.0)
    pitch = 10 + 30 * depth * rng.uniform(0.6, 1.2)
    thigh, knee, a = 95 * depth + 8, 125 * depth + 8, rng.uniform(4, 28)
    d = {"pelvis_pitch": pitch, "bend": rng.uniform(0, 25), "turn": rng.normal(0, 8)}
    for s in "LR":
        d |= {f"{s}.leg_flex": thigh + pitch + rng.normal(0, 3), f"{s}.knee": knee + rng.normal(0, 3), f"{s}.leg_abd": a}
        d |= {f"{s}.leg_out": rng.uniform(0, 22), f"{s}.ankle": rng.uniform(-25, 0)}
    return d | {"neck_bend": rng.uniform(-25, 10), "neck_turn": rng.normal(0, 18)}


def kneel(rng: np.random.Generator) -> dict[str, float]:
    d = {"pelvis_pitch": rng.uniform(-5, 18), "bend": rng.uniform(0, 25), "turn": rng.normal(0, 10)}
    up = rng.uniform(0, 1)  # 0: on both knees, upright; 1: sitting on the heels
    thigh = 5 + 70 * up
    for s in "LR":
        d |= {
            f"{s}.leg_flex": thigh + d["pelvis_pitch"],
            f"{s}.knee": 88 + 0.8 * thigh,
            f"{s}.ankle": 38.0,
            f"{s}.leg_abd": rng.uniform(0, 14),
        }
    if rng.random() < 0.6:  # one foot set forward
        d |= {"L.leg_flex": 88 + d["pelvis_pitch"], "L.knee": rng.uniform(78, 105), "L.ankle": -5.0}
        d |= {"R.leg_flex": d["pelvis_pitch"] + 4, "R.knee": 92.0, "R.ankle": rng.choice([-20.0, 38.0]), "R.toes": 30.0}
    return d | _look(rng)


def lunge(rng: np.random.Generator) -> dict[str, float]:
    depth, pitch = rng.uniform(0.3, 1.0), rng.uniform(-2, 28)
    d = {"pelvis_pitch": pitch, "bend": rng.normal(4, 8), "turn": rng.normal(0, 10)}
    d |= {"L.leg_flex": 30 + 55 * depth + pitch, "L.knee": 25 + 68 * depth, "L.ankle": -6.0, "L.leg_abd": rng.uniform(-2, 10)}
    d |= {
        "R.leg_flex": -12 - 22 * depth + pitch,
        "R.knee": rng.uniform(8, 75) * depth,
        "R.ankle": rng.uniform(-20, 15),
        "R.toes": 35.0 * depth,
    }
    return d | _look(rng)


def bend_over(rng: np.random.Generator) -> dict[str, float]:
    pitch, knee = rng.uniform(20, 85), rng.uniform(0, 50)
    d = {"pelvis_pitch": pitch, "bend": rng.uniform(5, 55), "turn": rng.normal(0, 9), "side": rng.normal(0, 6)}
    for s in "LR":
        d |= {f"{s}.leg_flex": pitch + 0.45 * knee - 0.1 * pitch, f"{s}.knee": knee + rng.normal(0, 4), f"{s}.ankle": -0.5 * knee}
        d |= {f"{s}.leg_abd": rng.uniform(0, 12), f"{s}.leg_out": rng.uniform(0, 15)}
    return d | {"neck_bend": rng.uniform(-40, 25), "neck_turn": rng.normal(0, 15)}


def one_leg(rng: np.random.Generator) -> dict[str, float]:
    d = stand(rng)
    d |= {
        "L.leg_flex": rng.uniform(20, 105),
        "L.leg_abd": rng.uniform(-5, 30),
        "L.leg_out": rng.uniform(0, 30),
        "side": rng.normal(0, 7),
    }
    d["L.knee"] = np.clip(d["L.leg_flex"] * rng.uniform(0.3, 1.3), 3, 140)
    d["L.ankle"] = rng.uniform(-10, 25)
    return d


def lie(rng: np.random.Generator) -> dict[str, float]:
    side = rng.random()
    d = {"pelvis_pitch": -90 + rng.normal(0, 4), "bend": rng.uniform(-3, 14)}
    if side < 0.3:
        d |= {
            "pelvis_pitch": 90 + rng.normal(0, 4),
            "bend": rng.uniform(-22, 3),
            "neck_turn": rng.choice([-1, 1]) * rng.uniform(20, 65),
        }
    elif side < 0.55:
        d |= {
            "pelvis_pitch": rng.normal(0, 12),
            "pelvis_roll": rng.choice([-1, 1]) * rng.uniform(80, 95),
            "bend": rng.uniform(0, 30),
        }
    for s in "LR":
        knee = rng.choice([rng.uniform(0, 12), rng.uniform(20, 110)])
        d |= {
            f"{s}.knee": knee,
            f"{s}.leg_flex": rng.uniform(0.4, 0.7) * knee,
            f"{s}.leg_abd": rng.uniform(-2, 18),
            f"{s}.ankle": rng.uniform(5, 35),
        }
        d[f"{s}.leg_out"] = rng.uniform(0, 35)
    return d


def jump(rng: np.random.Generator) -> dict[str, float]:
    d = _upright(rng)
    for s in "LR":
        knee = rng.uniform(5, 100)
        d |= {
            f"{s}.knee": knee,
            f"{s}.leg_flex": rng.uniform(-10, 60) * knee / 100 + 0.3 * knee,
            f"{s}.leg_abd": rng.uniform(0, 35),
        }
        d |= {f"{s}.ankle": rng.uniform(5, 42), f"{s}.leg_out": rng.uniform(0, 20)}
    return d


def _upright(rng: np.random.Generator) -> dict[str, float]:
    return {
        "pelvis_pitch": rng.normal(1, 4),
        "bend": rng.normal(2, 6),
        "side": rng.normal(0, 4),
        "turn": rng.normal(0, 9),
    } | _look(rng)


def _look(rng: np.random.Generator) -> dict[str, float]:
    return {"neck_turn": rng.normal(0, 22), "neck_bend": rng.normal(4, 12), "neck_side": rng.normal(0, 5)}


_STANDING = {
    "hang": 24, "swing": 8, "hip": 8, "fold": 6, "forward": 9, "up": 8, "side": 8, "side_up": 5, "wave": 5, "talk": 11, "face": 4,
    "phone": 4, "behind_head": 3, "behind_back": 3, "carry": 7, "across": 3, "any": 6,
}  # fmt: skip
_SEATED = {
    "lap": 30,
    "hang": 6,
    "talk": 14,
    "fold": 6,
    "forward": 10,
    "up": 5,
    "side": 5,
    "face": 7,
    "phone": 4,
    "wave": 4,
    "carry": 6,
    "any": 8,
}
_MOVING = {"swing": 45, "hang": 8, "talk": 10, "carry": 10, "phone": 4, "wave": 4, "forward": 4, "any": 5, "up": 4, "side": 4}
_ACTIVE = {
    "forward": 18,
    "up": 14,
    "side": 12,
    "side_up": 8,
    "talk": 8,
    "hang": 10,
    "hip": 6,
    "any": 18,
    "across": 5,
    "carry": 6,
    "down_forward": 8,
}

# Legs and trunk: name -> (weight, block, weights of the arm blocks that go with it).
LOWER: Mapping[str, tuple[float, Block, Mapping[str, float]]] = {
    "stand": (22, stand, _STANDING),
    "contrapposto": (10, contrapposto, _STANDING),
    "wide_stance": (6, wide_stance, _ACTIVE),
    "walk": (17, walk, _MOVING),
    "run": (6, run, {"run": 80, "up": 4, "any": 6, "swing": 10}),
    "sit": (10, sit, _SEATED),
    "floor_sit": (3, floor_sit, _SEATED),
    "squat": (5, squat, _ACTIVE),
    "kneel": (4, kneel, _ACTIVE),
    "lunge": (5, lunge, _ACTIVE),
    "bend_over": (6, bend_over, {"down_forward": 60, "hang": 8, "any": 10, "forward": 10, "up": 4, "hip": 4}),
    "one_leg": (3, one_leg, _ACTIVE),
    "lie": (3, lie, {"hang": 30, "up": 15, "any": 25, "side": 15, "face": 5, "talk": 10}),
    "jump": (2, jump, {"up": 30, "side_up": 20, "any": 25, "side": 15, "forward": 10}),
}

"""Who is who: the people seen in a frame against those who are, or a moment ago were, tracked.

Three kinds of evidence are compared, each as squared deviations in units of its own standard deviation: where the person
stands, how the body is built, and what colours it wears.  Each has a gate, so that one strong contradiction (another
colour at the same place) is not outvoted by the other two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

LATERAL_SIGMA_M = 0.15  # of a single-view estimate, across the line of sight
DEPTH_SIGMA_LOG = 0.12  # and along it, as a share of the distance
SPEED_SIGMA_M_S = 0.8  # how far somebody wanders while unseen, beyond what the motion model foretold
ESTIMATE_BETAS_SIGMA = 1.0  # a first estimate knows little about shape
# Of a part's mean colour in [0,1], brightness counted half.  Synthetic people under hard light, turning, learnt for 20 frames
# and met again half a second later: the distance is 0.05 (median) and 0.12 (90th percentile) to oneself, 0.12 (median) to
# another; the gate below lets four in five return and turns two in three others away (10 people, 180 other pairs).
COLOR_SIGMA = 0.05
BRIGHTNESS_SHARE = 0.5  # a person who turns towards a lamp keeps the hue, not the brightness
POSITION_GATE = 11.3  # chi-square with 3 degrees of freedom, 1 %
SHAPE_GATE = 2.32  # mean of 10 squared deviations: chi-square with 10 degrees of freedom, 1 %
COLOR_GATE = 3.2  # a distance of 0.09
COLOR_EXPECTED = 1.0  # of colours that nobody knows: at 0, whose are unknown would be preferred
MIN_PARTS = 3  # body parts that must have been seen in both, or colours say nothing
SWAP_COST = 2.0  # a track keeps its own crop's estimate unless another is better by more than this
SAME_PERSON_IOU = 0.6  # two estimates that overlap this much in the image are of one person


@dataclass(frozen=True, eq=False)
class Look:
    """Mean colours of the parts of one body, by the joint that moves them."""

    rgb: np.ndarray  # (24,3) in [0,1]
    weight: np.ndarray  # (24,) evidence, 0 where the part was not seen


@dataclass(frozen=True, eq=False)
class Traits:
    """What of a person can be compared."""

    root_m: np.ndarray  # (3,) pelvis, camera frame, at the frame's stamp
    betas: np.ndarray  # (10,)
    betas_sigma: np.ndarray  # (10,)
    look: Look | None = None  # None: colours were never learnt
    unseen_s: float = 0.0  # since the last measurement


def position_cost(known: Traits, found: Traits) -> float:
    """Three squared deviations: two across the line of sight, one along it."""
    k, f = np.asarray(known.root_m, float), np.asarray(found.root_m, float)
    if k[2] <= 0 or f[2] <= 0:
        return np.inf
    wandered_m = SPEED_SIGMA_M_S * known.unseen_s
    across_m = k[2] * (f[:2] / f[2] - k[:2] / k[2])
    across = np.sum(across_m**2) / (LATERAL_SIGMA_M + wandered_m) ** 2
    along = np.log(f[2] / k[2]) ** 2 / (DEPTH_SIGMA_LOG**2 + (wandered_m / k[2]) ** 2)
    return float(across + along)


def shape_cost(known: Traits, found: Traits) -> float:
    """Mean squared deviation of the shape coefficients."""
    variance = np.asarray(known.betas_sigma, float) ** 2 + np.asarray(found.betas_sigma, float) ** 2
    return float(np.mean((np.asarray(found.betas, float) - known.betas) ** 2 / variance))


def color_cost(known: Traits, found: Traits) -> float | None:
    """Mean squared deviation of the colours of parts seen in both; None when too few were."""
    if known.look is None or found.look is None:
        return None
    weight = np.minimum(known.look.weight, found.look.weight)
    if np.count_nonzero(weight) < MIN_PARTS:
        return None
    difference = np.asarray(found.look.rgb, float) - known.look.rgb
    brightness = difference.mean(-1, keepdims=True)
    squared = np.mean((difference - (1 - BRIGHTNESS_SHARE) * brightness) ** 2, -1)
    return float(weight @ squared / weight.sum()) / COLOR_SIGMA**2


def cost(known: Traits, found: Traits, strict: bool = True) -> float:
    """How badly the two agree; infinite when one kind of evidence rules it out.

    Not ``strict``: only position can rule out, for people who are in view all the time; and a place known less well is a
    worse match for the same deviation (the logarithm of the variances), or whoever was unseen longer would get the person.
    """
    position, shape, color = position_cost(known, found), shape_cost(known, found), color_cost(known, found)
    if color is None:
        color = COLOR_EXPECTED
    if position > POSITION_GATE or (strict and (shape > SHAPE_GATE or color > COLOR_GATE)):
        return np.inf
    wandered_m = 0.0 if strict else SPEED_SIGMA_M_S * known.unseen_s
    vague = 4 * np.log1p(wandered_m / LATERAL_SIGMA_M) + np.log1p((wandered_m / known.root_m[2] / DEPTH_SIGMA_LOG) ** 2)
    return position + shape + color + float(vague)


def match(
    known: Sequence[Traits], found: Sequence[Traits], bias: np.ndarray | None = None, strict: bool = True
) -> list[tuple[int, int]]:
    """The one-to-one matching of least cost, as many pairs as the gates of :func:`cost` allow.

    ``bias`` (K,F) is added to the costs.  Returns pairs (known, found), in the order of ``known``.
    """
    if not known or not found:
        return []
    costs = np.array([[cost(k, f, strict) for f in found] for k in known])
    allowed = np.isfinite(costs)
    if bias is not None:
        costs = costs + bias
    # One more allowed pair is always worth more than any sum of finite costs.
    rows, columns = linear_sum_assignment(np.where(allowed, costs, 1e6))
    return [(int(r), int(c)) for r, c in zip(rows, columns) if allowed[r, c]]


def people_in(overlap: np.ndarray, confidence: np.ndarray) -> list[list[int]]:
    """Groups of estimates that show the same person, each with its surest member first.

    overlap (N,N) of their boxes; confidence (N,).
    """
    groups: list[list[int]] = []
    for i in np.argsort(-np.asarray(confidence), kind="stable").tolist():
        for group in groups:
            if overlap[group[0], i] >= SAME_PERSON_IOU:
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def own_rows(tracks: Sequence[Traits], estimates: Sequence[Traits], groups: Sequence[Sequence[int]]) -> list[int | None]:
    """Which estimate belongs to which track, where estimate i was made in the window of track i.

    Tracks whose person is hidden behind another see that other person in their window: of all the estimates of one person
    only one track gets one, the others get None.
    """
    bias = np.array([[0.0 if i in group else SWAP_COST for group in groups] for i in range(len(tracks))])
    rows: list[int | None] = [None] * len(tracks)
    for i, g in match(tracks, [estimates[group[0]] for group in groups], bias, strict=False):
        rows[i] = i if i in groups[g] else groups[g][0]
    return rows

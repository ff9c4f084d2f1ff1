"""A body pose read straight off keypoints: the start from which the fit lifts them.

Root from hips and shoulders, limbs by turning each bone onto its observed direction, translation by linear least squares
on the projection.  With 3D hints (``direction_xyz``) directions are taken as they are; without, people are first laid
into the image plane and turned so that the width of their shoulders fits.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ..body.joints import JOINT_INDEX, Landmarks, landmark_positions
from ..body.model import BodyModel, pose, thinned
from ..geometry import so3
from ..types import NUM_JOINTS, BodyParams, Camera, Keypoints

MIN_CONFIDENCE = 0.15
# A bend of more than this (sine) tells the twist of the upper bone: elbows and knees are hinges.
MIN_BEND = 0.35
MAX_SPINE_TWIST_RAD = 1.0
MAX_HEAD_TURN_RAD = 1.2
START_DEPTH_M = 3.0
# Bones seen at more than this share of their length count as lying in the image plane: noise alone takes that much.
FLAT_SHARE = 0.92
_HEAD = ("nose", "left_eye", "right_eye", "left_ear", "right_ear", "mouth_left", "mouth_right")
_X, _Y = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])


class StartFinder:
    """Initialises bodies for one body model and one keypoint set."""

    def __init__(self, body: BodyModel, set_name: str) -> None:
        self._body, self._points = landmark_body(body, body.landmarks[set_name])
        self._rest = landmark_positions(self._points, pose(self._body, _rest64()))[0]
        self._index = {n: i for i, n in enumerate(self._points.names)}
        self._placed = self._points.placed
        hips, shoulders = (
            np.mean([self._rest[self._index[f"{s}_{n}"]] for s in ("left", "right")], 0) for n in ("hip", "shoulder")
        )
        self._trunk_m = float(np.linalg.norm(shoulders - hips))

    def start(self, keypoints: Keypoints, camera: Camera) -> BodyParams:
        """(P,K) keypoints -> P bodies of mean shape.  Always finite; people without keypoints stand upright at 3 m."""
        people = [self._person(keypoints, i, camera) for i in range(len(keypoints.uv))]
        return BodyParams.stack(people)

    def place(self, params: BodyParams, uv: np.ndarray, confidence: np.ndarray, camera: Camera) -> np.ndarray:
        """The translation (3,) m that projects one body's points onto ``uv`` (K,2), in the least-squares sense."""
        unmoved = dataclasses.replace(_to64(params), t_camera_root=np.zeros((1, 3)))
        points = landmark_positions(self._points, pose(self._body, unmoved))[0]
        weight = np.where(self._placed & np.isfinite(uv).all(1), np.nan_to_num(confidence), 0.0)
        return _solve_translation(points, np.nan_to_num(uv), weight, camera)

    def reprojection_px(self, params: BodyParams, uv: np.ndarray, confidence: np.ndarray, camera: Camera) -> float:
        """Confidence-weighted mean distance of one body's points to ``uv``, px; inf when it lies behind the camera."""
        points = landmark_positions(self._points, pose(self._body, _to64(params)))[0]
        weight = np.where(self._placed & np.isfinite(uv).all(1), np.nan_to_num(confidence), 0.0)
        if points[:, 2].min() <= 0.05 or weight.sum() <= 0:
            return float("inf")
        at = points[:, :2] / points[:, 2:] * [camera.fx, camera.fy] + [camera.cx, camera.cy]
        return float((weight * np.linalg.norm(at - np.nan_to_num(uv), axis=1)).sum() / weight.sum())

    def _person(self, keypoints: Keypoints, i: int, camera: Camera) -> BodyParams:
        uv = np.asarray(keypoints.uv[i], np.float64)
        confidence = np.where(np.isfinite(uv).all(1), np.nan_to_num(keypoints.confidence[i]), 0.0)
        hints = None if keypoints.direction_xyz is None else np.asarray(keypoints.direction_xyz[i], np.float64)
        planar = hints is None or not np.isfinite(hints).all(1).any()
        seen = _Seen(self._index, confidence, _flat(uv) if planar else hints, planar)
        if planar:
            self._foreshorten(seen)
        local = self._rotations(seen)
        rotvec = so3.log(local)
        params = BodyParams(np.zeros((1, 10)), rotvec[None, 0], rotvec[None, 1:], np.zeros((1, 3)))
        t = self.place(params, uv, confidence, camera)
        return BodyParams(*(np.asarray(a, np.float32) for a in (params.betas, params.root_rotvec, params.joint_rotvec, t[None])))

    def _foreshorten(self, seen: _Seen) -> None:
        """Tell ``seen`` how far each bone's end lies behind its start, in px: what the picture lacks of its length.

        The least foreshortened bones give the scale.  The sign is that of what people do most: arms and thighs reach ahead,
        shins fold back.
        """
        length = {}
        for side in ("left", "right"):
            for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle")):
                d = seen.direction(f"{side}_{a}", f"{side}_{b}")
                if d is not None:
                    pair = (f"{side}_{a}", f"{side}_{b}")
                    length[pair] = (float(np.linalg.norm(d)), float(np.linalg.norm(self._bone(*pair))))
        up = seen.between(("left_hip", "right_hip"), ("left_shoulder", "right_shoulder"))
        if up is None or len(length) < 2:
            return
        ratios = [px / m for px, m in length.values()] + [float(np.linalg.norm(up)) / self._trunk_m]
        px_per_m = sorted(ratios)[-2]
        across = _across_from_width(seen, up)
        ahead = -1.0 if across is None else float(np.cross(across, up)[2])
        ahead = np.sign(ahead) if ahead else -1.0
        out = {}
        for (a, b), (px, m) in length.items():
            share = px / (FLAT_SHARE * px_per_m * m)
            if share < 1.0:
                sign = -ahead if a.endswith("knee") else ahead
                out[a, b] = sign * px_per_m * m * np.sqrt(1 - share * share)
        seen.deeper = out

    def _rotations(self, seen: _Seen) -> np.ndarray:
        """Local rotations (24,3,3)."""
        local = np.tile(np.eye(3), (NUM_JOINTS, 1, 1))
        root, spine = self._trunk(seen)
        local[0] = root
        third = so3.exp(so3.log(spine) / 3)
        for name in ("spine1", "spine2", "spine3"):
            local[JOINT_INDEX[name]] = third
        chest = root @ spine
        for side in ("left", "right"):
            outward = -_Y if side == "left" else _Y
            self._limb(local, chest, seen, side, ("shoulder", "elbow", "wrist"), outward)
            shin = self._limb(local, root, seen, side, ("hip", "knee", "ankle"), _X)
            self._foot(local, shin, seen, side)
        if not seen.planar:
            self._head(local, chest, seen)
        return local

    def _trunk(self, seen: _Seen) -> tuple[np.ndarray, np.ndarray]:
        """Global rotation of the pelvis, and that of the chest relative to it."""
        rest = _Seen(self._index, np.ones(len(self._rest)), self._rest, False)
        up = seen.between(("left_hip", "right_hip"), ("left_shoulder", "right_shoulder"))
        rest_up = rest.between(("left_hip", "right_hip"), ("left_shoulder", "right_shoulder"))
        if up is None:
            up = np.array([0, -1.0, 0])
        shoulders, hips = seen.direction("right_shoulder", "left_shoulder"), seen.direction("right_hip", "left_hip")
        if seen.planar:
            shoulders = hips = _across_from_width(seen, up)
        sides = [_unit(s) for s in (shoulders, hips) if s is not None]
        across = np.sum(sides, 0) if sides else np.array([1.0, 0, 0])
        base = _frame(rest_up, _X)
        root = _frame(up, across) @ base.T
        if shoulders is None or hips is None:
            return root, np.eye(3)
        pelvis = _frame(up, 2 * _unit(hips) + _unit(shoulders)) @ base.T
        chest = _frame(up, _unit(hips) + 3 * _unit(shoulders)) @ base.T
        return pelvis, so3.exp(_shortened(so3.log(pelvis.T @ chest), MAX_SPINE_TWIST_RAD))

    def _limb(
        self, local: np.ndarray, parent: np.ndarray, seen: _Seen, side: str, parts: tuple[str, str, str], hinge: np.ndarray
    ) -> np.ndarray:
        """Turn upper and lower bone of an arm or leg; returns the global rotation of the lower bone."""
        a, b, c = (f"{side}_{p}" for p in parts)
        upper, lower = seen.direction(a, b), seen.direction(b, c)
        rest_upper, rest_lower = self._bone(a, b), self._bone(b, c)
        j, k = JOINT_INDEX[a], JOINT_INDEX[b]
        if upper is None:
            return parent
        turn = _swing(parent @ rest_upper, upper) @ parent
        if lower is not None and not seen.planar:
            axis = np.cross(_unit(upper), _unit(lower))
            if np.linalg.norm(axis) > MIN_BEND:
                turn = _frame(upper, axis) @ _frame(rest_upper, hinge).T
        local[j] = parent.T @ turn
        if lower is None:
            return turn
        lower_turn = _swing(turn @ rest_lower, lower) @ turn
        local[k] = turn.T @ lower_turn
        return lower_turn

    def _foot(self, local: np.ndarray, shin: np.ndarray, seen: _Seen, side: str) -> None:
        for heel, toe in ((f"{side}_heel", f"{side}_foot_index"), (f"{side}_heel", f"{side}_big_toe")):
            direction = None if seen.planar else seen.direction(heel, toe)
            if direction is not None:
                turn = _swing(shin @ self._bone(heel, toe), direction)
                local[JOINT_INDEX[f"{side}_ankle"]] = shin.T @ so3.exp(_shortened(so3.log(turn), 0.7)) @ shin
                return

    def _head(self, local: np.ndarray, chest: np.ndarray, seen: _Seen) -> None:
        names = [n for n in _HEAD if seen.has(n)]
        if len(names) < 3 or not (seen.has("left_ear") and seen.has("right_ear")):
            return
        ids = [self._index[n] for n in names]
        rest, observed = self._rest[ids], seen.xyz[ids]
        turn = so3.project((observed - observed.mean(0)).T @ (rest - rest.mean(0)))
        half = so3.exp(_shortened(so3.log(chest.T @ turn), MAX_HEAD_TURN_RAD) / 2)
        local[JOINT_INDEX["neck"]] = local[JOINT_INDEX["head"]] = half

    def _bone(self, a: str, b: str) -> np.ndarray:
        return self._rest[self._index[b]] - self._rest[self._index[a]]


class _Seen:
    """Named access to one person's observed points."""

    def __init__(self, index: dict[str, int], confidence: np.ndarray, xyz: np.ndarray, planar: bool) -> None:
        self.index, self.confidence, self.xyz, self.planar = index, confidence, xyz, planar
        self.deeper: dict[tuple[str, str], float] = {}

    def has(self, name: str) -> bool:
        i = self.index.get(name)
        return i is not None and self.confidence[i] > MIN_CONFIDENCE and bool(np.isfinite(self.xyz[i]).all())

    def at(self, name: str) -> np.ndarray:
        return self.xyz[self.index[name]]

    def direction(self, a: str, b: str) -> np.ndarray | None:
        """From a to b, or None when one is unseen or they coincide."""
        if not (self.has(a) and self.has(b)):
            return None
        d = self.at(b) - self.at(a)
        if (a, b) in self.deeper:
            d = d + np.array([0, 0, self.deeper[a, b]])
        return d if np.linalg.norm(d) > 1e-9 else None

    def between(self, a: tuple[str, str], b: tuple[str, str]) -> np.ndarray | None:
        """From the middle of the seen points of one pair to that of another."""
        from_, to = ([self.at(n) for n in pair if self.has(n)] for pair in (a, b))
        if not from_ or not to:
            return None
        d = np.mean(to, 0) - np.mean(from_, 0)
        return d if np.linalg.norm(d) > 1e-9 else None


def landmark_body(body: BodyModel, points: Landmarks) -> tuple[BodyModel, Landmarks]:
    """A body of only the vertices that ``points`` use, and the points on it: poses 50 times faster.

    It has no faces; joints, shape and pose blendshapes are those of the whole body.
    """
    ids, compact = np.unique(points.vertex_index, return_inverse=True)
    index = compact.reshape(points.vertex_index.shape).astype(np.int32)
    return thinned(body, ids), dataclasses.replace(points, vertex_index=index)


def _flat(uv: np.ndarray) -> np.ndarray:
    return np.concatenate([uv, np.zeros((len(uv), 1))], 1)


def _across_from_width(seen: _Seen, up: np.ndarray) -> np.ndarray | None:
    """Direction from right to left of a flat person, turned about its axis until the seen width is that of shoulders.

    Which way it turns follows from the nose, else from the feet: both point to where the chest does.
    """
    wide = seen.direction("right_shoulder", "left_shoulder")
    if wide is None:
        wide = seen.direction("right_hip", "left_hip")
    if wide is None:
        return None
    expected = 0.62 * np.linalg.norm(up)  # shoulder width over trunk length of adults
    missing = np.sqrt(max(expected**2 - float(wide @ wide), 0.0))
    ahead = seen.between(("left_shoulder", "right_shoulder"), ("nose", "nose"))
    if ahead is None:  # a skeleton without a face: feet point ahead, too
        ahead = seen.between(("left_ankle", "right_ankle"), ("left_foot", "right_foot"))
    side = 0.0 if ahead is None else float(ahead[0] - up[0] * (ahead @ up) / max(float(up @ up), 1e-9))
    # Only a nose clearly beside the neck says anything: small offsets are tilts of the head.
    depth = missing * np.clip(side / (0.15 * expected + 1e-9), -1, 1)
    return wide + np.array([0, 0, depth])


def _solve_translation(points: np.ndarray, uv: np.ndarray, weight: np.ndarray, camera: Camera) -> np.ndarray:
    """t (3,) m with ``project(points + t) ~ uv``: linear in t, two rows a point, weights refined once against outliers."""
    if (weight > 0).sum() < 2:
        return np.array([0, 0, START_DEPTH_M]) - points.mean(0)
    focal = np.array([camera.fx, camera.fy])
    ray = (uv - [camera.cx, camera.cy]) / focal
    t = np.array([0, 0, START_DEPTH_M])
    w = weight.copy()
    for _ in range(3):
        # X + tx = rx (Z + tz), Y + ty = ry (Z + tz)
        rows = np.zeros((len(points), 2, 3))
        rows[:, 0, 0] = rows[:, 1, 1] = 1
        rows[:, :, 2] = -ray
        rhs = ray * points[:, 2:] - points[:, :2]
        a, b = (rows * w[:, None, None]).reshape(-1, 3), (rhs * w[:, None]).ravel()
        t = np.linalg.lstsq(a, b, rcond=None)[0]
        error = np.linalg.norm((rows @ t) - rhs, axis=1)
        scale = 2.0 * np.median(error[weight > 0]) + 1e-9
        w = weight / (1 + (error / scale) ** 2)
    nearest = 0.3 - points[:, 2].min()
    if not np.isfinite(t).all() or t[2] < nearest:
        # All points on one spot, or noise alone: the ray of their mean at the usual distance.
        middle = np.average(ray, axis=0, weights=weight)
        return np.array([*(middle * START_DEPTH_M), START_DEPTH_M]) - points.mean(0)
    return t


def _frame(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Rotation whose columns are the unit ``first``, ``second`` made orthogonal to it, and their cross product."""
    x = _unit(first)
    y = second - (second @ x) * x
    if np.linalg.norm(y) < 1e-6 * max(np.linalg.norm(second), 1e-9):
        y = np.eye(3)[np.argmin(np.abs(x))]
        y = y - (y @ x) * x
    y = _unit(y)
    return np.stack([x, y, np.cross(x, y)], 1)


def _swing(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest rotation that takes direction a to direction b."""
    a, b = _unit(a), _unit(b)
    axis, cosine = np.cross(a, b), float(a @ b)
    sine = np.linalg.norm(axis)
    if sine < 1e-9:
        if cosine > 0:
            return np.eye(3)
        axis, sine = _frame(a, np.eye(3)[np.argmin(np.abs(a))])[:, 1], 1.0  # any axis across a
        return so3.exp(axis * np.pi)
    return so3.exp(axis / sine * np.arctan2(sine, cosine))


def _shortened(rotvec: np.ndarray, limit: float) -> np.ndarray:
    angle = np.linalg.norm(rotvec)
    return rotvec * min(1.0, limit / max(angle, 1e-9))


def _unit(v: np.ndarray) -> np.ndarray:
    return v / max(float(np.linalg.norm(v)), 1e-12)


def _rest64() -> BodyParams:
    return _to64(BodyParams.rest(1))


def _to64(params: BodyParams) -> BodyParams:
    return BodyParams(
        *(np.asarray(a, np.float64) for a in (params.betas, params.root_rotvec, params.joint_rotvec, params.t_camera_root))
    )

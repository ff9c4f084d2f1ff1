"""The body model and its NumPy reference: SMPL's linear blend skinning (Loper et al. 2015, eq. 2 to 10), in stages.

The model's own axes are SMPL's: y up, z forward (the rest pose faces +z), x to the person's left, metres.  A person who
stands upright and faces a camera (optical frame: y down, z forward) has the root rotation ``exp([pi, 0, 0])``.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from ..errors import ShapeError
from ..geometry import so3
from ..types import NUM_BETAS, NUM_JOINTS, BodyParams, PosedBody
from .joints import Landmarks

FREE_TOPOLOGY = "76d64e13c78dfeff"  # of the body that ships


@dataclass(frozen=True, eq=False)
class BodyModel:
    """A body in SMPL's format: V vertices, F triangles, 24 joints, 10 shape directions."""

    name: str
    topology_id: str  # 16 hex digits, see :func:`topology_id`
    v_template: np.ndarray  # (V,3) float32 m, mean shape in T-pose
    shapedirs: np.ndarray  # (V,3,10) float32 m per unit of beta
    posedirs: np.ndarray | None  # (207,V*3) float32 m, or None where the body has no pose blendshapes
    joint_template: np.ndarray  # (24,3) m, rest joints of the mean shape
    joint_shapedirs: np.ndarray  # (24,3,10) m per unit of beta: rest joints are linear in betas
    j_regressor: scipy.sparse.csr_matrix  # (24,V) float32, rows sum to 1
    skin_joint: np.ndarray  # (V,4) int32
    skin_weight: np.ndarray  # (V,4) float32, rows sum to 1, unused slots 0
    parents: np.ndarray  # (24,) int32, -1 at the root; parents come before children
    faces: np.ndarray  # (F,3) int32, counter-clockwise seen from outside
    uv: np.ndarray | None  # (T,2) float32 in [0,1], v down: texture column = u * width, row = v * height
    uv_faces: np.ndarray | None  # (F,3) int32 into uv
    landmarks: Mapping[str, Landmarks]  # "smpl24", "openpose25", "coco17", "mediapipe33"
    license: str = ""

    @property
    def num_vertices(self) -> int:
        """V."""
        return len(self.v_template)

    @property
    def num_faces(self) -> int:
        """F."""
        return len(self.faces)

    @property
    def is_smpl(self) -> bool:
        """Whether betas, translations and vertices mean what SMPL's files mean; those of the free body are its own."""
        return self.topology_id != FREE_TOPOLOGY


def joint_shares(body: BodyModel, vertices: np.ndarray | slice = slice(None)) -> np.ndarray:
    """(n,24) float32: how much each joint carries of ``vertices`` (n,), all of them by default."""
    joint, weight = body.skin_joint[vertices], body.skin_weight[vertices]
    share = np.zeros((len(joint), NUM_JOINTS), np.float32)
    np.add.at(share, (np.arange(len(joint))[:, None], joint), weight)
    return share


def face_parts(body: BodyModel) -> np.ndarray:
    """(F,) uint8: the joint with the largest share in each face's skinning."""
    return joint_shares(body)[body.faces].sum(1).argmax(1).astype(np.uint8)


def outline_vertices(body: BodyModel, count: int = 1024) -> np.ndarray:
    """(count,) indices of vertices that say where a body begins and ends: each the farthest in rest from those before it.

    Boxes around these are at most 0.7 % of their longer side off those around all 6,890 vertices (0.17 % on average, 100 poses;
    with 512 of them 1.2 and 0.27 %).
    """
    rest = body.v_template.astype(np.float64)
    chosen = np.empty(min(count, len(rest)), np.int32)
    distance2, chosen[0] = np.full(len(rest), np.inf), rest[:, 1].argmax()
    for i in range(1, len(chosen)):
        np.minimum(distance2, ((rest - rest[chosen[i - 1]]) ** 2).sum(1), out=distance2)
        chosen[i] = distance2.argmax()
    return chosen


def thinned(body: BodyModel, vertices: np.ndarray) -> BodyModel:
    """The body of ``vertices`` (n,) alone, without a surface or keypoints."""
    posedirs = body.posedirs
    if posedirs is not None:
        posedirs = posedirs.reshape(len(posedirs), -1, 3)[:, vertices].reshape(len(posedirs), -1)
    return dataclasses.replace(
        body,
        v_template=body.v_template[vertices],
        shapedirs=body.shapedirs[vertices],
        posedirs=posedirs,
        j_regressor=body.j_regressor[:, vertices],
        skin_joint=body.skin_joint[vertices],
        skin_weight=body.skin_weight[vertices],
        faces=np.zeros((0, 3), np.int32),
        uv=None,
        uv_faces=None,
        landmarks={},
    )


def topology_id(faces: np.ndarray, num_vertices: int) -> str:
    """16 hex digits of SHA-256 over the vertex count and the faces: the same id means the same triangle list."""
    digest = hashlib.sha256(int(num_vertices).to_bytes(8, "little"))
    digest.update(np.ascontiguousarray(faces, "<i4").tobytes())
    return digest.hexdigest()[:16]


def check_params(params: BodyParams) -> int:
    """Number of persons; raises ShapeError when the fields do not fit together."""
    p = len(params.betas)
    expected = ((p, NUM_BETAS), (p, 3), (p, NUM_JOINTS - 1, 3), (p, 3))
    fields = ("betas", "root_rotvec", "joint_rotvec", "t_camera_root")
    for name, shape in zip(fields, expected):
        got = np.shape(getattr(params, name))
        if got != shape:
            raise ShapeError(f"expected {name} {shape} for {p} persons, got {got}")
    return p


def rest_joints(body: BodyModel, betas: np.ndarray) -> np.ndarray:
    """Joints of the T-pose.  (P,10) -> (P,24,3) m, in the model's axes."""
    betas = np.asarray(betas)
    if betas.ndim != 2 or betas.shape[1] != NUM_BETAS:
        raise ShapeError(f"expected betas (P,10), got {betas.shape}")
    f = _dtype(betas)
    return body.joint_template.astype(f) + np.einsum("jcb,pb->pjc", body.joint_shapedirs.astype(f), betas.astype(f))


def rest_vertices(body: BodyModel, betas: np.ndarray) -> np.ndarray:
    """Vertices of the T-pose.  (P,10) -> (P,V,3) m, in the model's axes."""
    f = _dtype(betas)
    flat = body.shapedirs.reshape(-1, NUM_BETAS).astype(f)
    return body.v_template.astype(f) + (np.asarray(betas, f) @ flat.T).reshape(len(betas), body.num_vertices, 3)


def joint_transforms(body: BodyModel, params: BodyParams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Global rotations (P,24,3,3) and positions (P,24,3) m of the posed joints, and the rest joints (P,24,3) m.

    The position of the root is ``rest joint 0 + t_camera_root``, as in SMPL.
    """
    p = check_params(params)
    rest = rest_joints(body, params.betas)
    f = np.result_type(rest.dtype, _dtype(params.joint_rotvec))
    rotvec = params.rotvec.astype(f)
    local = so3.exp(rotvec)
    rotmat = np.empty((p, NUM_JOINTS, 3, 3), f)
    position = np.empty((p, NUM_JOINTS, 3), f)
    rotmat[:, 0] = local[:, 0]
    position[:, 0] = rest[:, 0] + params.t_camera_root
    for j in range(1, NUM_JOINTS):
        k = body.parents[j]
        rotmat[:, j] = rotmat[:, k] @ local[:, j]
        position[:, j] = position[:, k] + np.einsum("pij,pj->pi", rotmat[:, k], rest[:, j] - rest[:, k])
    return rotmat, position, rest


def pose(body: BodyModel, params: BodyParams) -> PosedBody:
    """Posed surface and joints in the camera frame, m; float64 parameters are computed in float64.

    Raises ShapeError when the parameters do not fit together.
    """
    rotmat, position, rest = joint_transforms(body, params)
    f = rotmat.dtype
    p = len(rotmat)
    vertices = rest_vertices(body, params.betas).astype(f, copy=False)
    if body.posedirs is not None:
        vertices = vertices + _pose_offsets(body, params, f)
    # x = sum_k w_k (G_k (v - J_k) + p_k): blend the 3x4 transforms, then apply them once.
    shift = position - np.einsum("pjab,pjb->pja", rotmat, rest.astype(f, copy=False))
    transform = np.concatenate([rotmat, shift[..., None]], -1).reshape(p, NUM_JOINTS, 12)
    blended = np.zeros((p, body.num_vertices, 12), f)
    for slot in range(body.skin_joint.shape[1]):
        blended += body.skin_weight[:, slot, None].astype(f) * transform[:, body.skin_joint[:, slot]]
    blended = blended.reshape(p, body.num_vertices, 3, 4)
    out = np.einsum("pvab,pvb->pva", blended[..., :3], vertices) + blended[..., 3]
    return PosedBody(out, position)


def vertex_colors(body: BodyModel) -> np.ndarray:
    """(V,3) float32 in [0.1,1]: position in the T-pose within its bounding box, so that a colour names the same place of
    the body on any mesh.  Never zero: zero marks the background.
    """
    low, high = body.v_template.min(0), body.v_template.max(0)
    return (0.1 + 0.9 * (body.v_template - low) / (high - low)).astype(np.float32)


def _pose_offsets(body: BodyModel, params: BodyParams, f: np.dtype) -> np.ndarray:
    feature = (so3.exp(params.joint_rotvec.astype(f)) - np.eye(3, dtype=f)).reshape(len(params), len(body.posedirs))
    return (feature @ body.posedirs.astype(f)).reshape(len(params), body.num_vertices, 3)


def _dtype(array: np.ndarray) -> np.dtype:
    return np.dtype(np.float64 if np.asarray(array).dtype == np.float64 else np.float32)

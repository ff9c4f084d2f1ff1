"""Skinning in NVIDIA Warp: the same result as :func:`densefit_ros.body.model.pose`, on CPU and CUDA from one source.

Two launches per call (three with pose blendshapes): a thread per person walks the joint tree, then a thread per vertex and
person blends.  All buffers
are allocated once; only the parameters (85 numbers a person) go up.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import warp as wp

from .. import warp_setup
from ..errors import BackendUnavailable, ShapeError
from ..types import NUM_BETAS, NUM_JOINTS, BodyParams, PosedBody
from .model import BodyModel, check_params, outline_vertices, thinned

wp.set_module_options({"enable_backward": False})

_JOINTS = wp.constant(NUM_JOINTS)
_BETAS = wp.constant(NUM_BETAS)
_POSE = wp.constant(9 * (NUM_JOINTS - 1))
_BLOCK = wp.constant(8)
_PARAMS = NUM_BETAS + 3 * NUM_JOINTS + 3  # betas of all persons, then all rotation vectors, then all translations
_vec_betas = wp.types.vector(length=NUM_BETAS, dtype=wp.float32)


@wp.func
def _rotmat(r: wp.vec3):
    theta2 = wp.dot(r, r)
    a = 1.0 - theta2 / 6.0
    b = 0.5 - theta2 / 24.0
    if theta2 > 1.0e-8:
        theta = wp.sqrt(theta2)
        a = wp.sin(theta) / theta
        b = (1.0 - wp.cos(theta)) / theta2
    k = wp.skew(r)
    return wp.identity(n=3, dtype=float) + a * k + b * (k * k)


@wp.kernel
def _chain(
    betas: wp.array(dtype=_vec_betas),
    rotvec: wp.array(dtype=wp.vec3),
    translation: wp.array(dtype=wp.vec3),
    parents: wp.array(dtype=int),
    joint_template: wp.array(dtype=wp.vec3),
    joint_shapedirs: wp.array(dtype=wp.vec3),  # [beta * 24 + joint]
    rest: wp.array(dtype=wp.vec3),
    rotmat: wp.array(dtype=wp.mat33),
    shift: wp.array(dtype=wp.vec3),
    joints: wp.array(dtype=wp.vec3),
    feature: wp.array(dtype=float),
):
    p = wp.tid()
    first = p * _JOINTS
    beta = betas[p]
    for j in range(_JOINTS):
        r = joint_template[j]
        for b in range(_BETAS):
            r += beta[b] * joint_shapedirs[b * _JOINTS + j]
        rest[first + j] = r
        local = _rotmat(rotvec[first + j])
        k = parents[j]
        if k < 0:
            rotmat[first + j] = local
            joints[first + j] = r + translation[p]
        else:
            rotmat[first + j] = rotmat[first + k] * local
            joints[first + j] = joints[first + k] + rotmat[first + k] * (r - rest[first + k])
            offset = p * _POSE + 9 * (j - 1)
            for row in range(3):
                for column in range(3):
                    value = local[row, column]
                    if row == column:
                        value -= 1.0
                    feature[offset + 3 * row + column] = value
        shift[first + j] = joints[first + j] - rotmat[first + j] * r


@wp.kernel
def _shape(
    num_vertices: int,
    betas: wp.array(dtype=_vec_betas),
    mean_shape: wp.array(dtype=wp.vec3),
    shapedirs: wp.array(dtype=wp.vec3),  # [beta * V + vertex]: neighbouring threads read neighbouring numbers
    posedirs: wp.array(dtype=wp.vec3),  # [block of vertices][feature][vertex in the block], see _blocked
    feature: wp.array(dtype=float),
    rest_vertices: wp.array(dtype=wp.vec3),
):
    p, v = wp.tid()
    beta = betas[p]  # into registers: indexed in place, one body took 200 us instead of 140
    x = mean_shape[v]
    for b in range(_BETAS):
        x += beta[b] * shapedirs[b * num_vertices + v]
    block = v / _BLOCK
    start = block * _POSE * _BLOCK + v - block * _BLOCK
    for c in range(_POSE):
        x += feature[p * _POSE + c] * posedirs[start + c * _BLOCK]
    rest_vertices[p * num_vertices + v] = x


@wp.func
def _carry(
    x: wp.vec3, joint: wp.vec4i, weight: wp.vec4, first: int, rotmat: wp.array(dtype=wp.mat33), shift: wp.array(dtype=wp.vec3)
):
    out = wp.vec3()
    for slot in range(4):
        k = first + joint[slot]
        out += weight[slot] * (rotmat[k] * x + shift[k])
    return out


@wp.kernel
def _blend(
    num_vertices: int,
    rest_vertices: wp.array(dtype=wp.vec3),
    skin_joint: wp.array(dtype=wp.vec4i),
    skin_weight: wp.array(dtype=wp.vec4),
    rotmat: wp.array(dtype=wp.mat33),
    shift: wp.array(dtype=wp.vec3),
    vertices: wp.array(dtype=wp.vec3),
):
    p, v = wp.tid()
    i = p * num_vertices + v
    vertices[i] = _carry(rest_vertices[i], skin_joint[v], skin_weight[v], p * _JOINTS, rotmat, shift)


@wp.kernel
def _shape_and_blend(
    num_vertices: int,
    betas: wp.array(dtype=_vec_betas),
    mean_shape: wp.array(dtype=wp.vec3),
    shapedirs: wp.array(dtype=wp.vec3),
    skin_joint: wp.array(dtype=wp.vec4i),
    skin_weight: wp.array(dtype=wp.vec4),
    rotmat: wp.array(dtype=wp.mat33),
    shift: wp.array(dtype=wp.vec3),
    vertices: wp.array(dtype=wp.vec3),
):
    p, v = wp.tid()
    beta = betas[p]  # into registers: indexed in place, one body took 200 us instead of 140
    x = mean_shape[v]
    for b in range(_BETAS):
        x += beta[b] * shapedirs[b * num_vertices + v]
    vertices[p * num_vertices + v] = _carry(x, skin_joint[v], skin_weight[v], p * _JOINTS, rotmat, shift)


def _blocked(posedirs: np.ndarray) -> np.ndarray:
    """(207,V*3) to blocks of 8 vertices, (V/8 * 207 * 8, 3): a block of 20 kB stays in a CPU's first cache while its vertices
    pass, and a CUDA warp still reads whole cache lines.  Feature by feature over the whole body took 31 ms instead of 2.5.
    """
    columns, numbers = posedirs.shape
    padded = np.zeros((columns, -(-numbers // (3 * _BLOCK)) * _BLOCK, 3), np.float32)
    padded[:, : numbers // 3] = posedirs.reshape(columns, -1, 3)
    return padded.reshape(columns, -1, _BLOCK, 3).transpose(1, 0, 2, 3).reshape(-1, 3)


class Skinner:
    """Poses up to ``max_persons`` bodies per call on one device, in float32.

    After a call, :attr:`vertices` and :attr:`joints` hold the result on the device (wp.array of vec3, person after person)
    until the next one; other kernels on the device may read them there.  :attr:`params` are betas, rotation vectors and
    translations on the device, for those who write them there and call :meth:`queue`.
    """

    def __init__(self, body: BodyModel, device: str = "cpu", max_persons: int = 16) -> None:
        """Raises BackendUnavailable for a device that Warp does not have, ShapeError for no room for a person."""
        warp_setup.init()
        if max_persons < 1:
            raise ShapeError(f"expected max_persons of 1 or more, got {max_persons}")
        try:
            self.device = wp.get_device(device)
        except (ValueError, RuntimeError) as error:
            raise BackendUnavailable(f"Warp has no device '{device}' here (CUDA needs an NVIDIA driver): {error}") from error
        self.body, self.max_persons = body, max_persons
        v = self._v = body.num_vertices
        self._host = wp.zeros(max_persons * _PARAMS, dtype=float, device="cpu", pinned=self.device.is_cuda)
        self._params = self._host if self.device.is_cpu else wp.zeros_like(self._host, device=self.device)
        blocks = np.cumsum([0, NUM_BETAS, 3 * NUM_JOINTS, 3]) * max_persons
        self._rows = [part.reshape(max_persons, -1) for part in np.split(self._host.numpy(), blocks[1:-1])]
        self.params = betas, rotvec, translation = tuple(
            wp.array(ptr=self._params.ptr + 4 * int(start), dtype=kind, shape=count * max_persons, device=self.device)
            for start, kind, count in zip(blocks, (_vec_betas, wp.vec3, wp.vec3), (1, NUM_JOINTS, 1))
        )
        feature = self._zeros(max_persons * 9 * (NUM_JOINTS - 1), float)
        rest, rotmat, shift = (self._zeros(max_persons * NUM_JOINTS, t) for t in (wp.vec3, wp.mat33, wp.vec3))
        self.joints = self._zeros(max_persons * NUM_JOINTS, wp.vec3)
        self.vertices = self._zeros(max_persons * v, wp.vec3)
        chain_inputs = [
            betas, rotvec, translation, self._put(body.parents, int), self._put(body.joint_template, wp.vec3),
            self._put(body.joint_shapedirs.transpose(2, 0, 1).reshape(-1, 3), wp.vec3),
            rest, rotmat, shift, self.joints, feature,
        ]  # fmt: skip
        shape_inputs = [
            v, betas, self._put(body.v_template, wp.vec3),
            self._put(body.shapedirs.transpose(2, 0, 1).reshape(-1, 3), wp.vec3),
        ]  # fmt: skip
        skin_inputs = [self._put(body.skin_joint, wp.vec4i), self._put(body.skin_weight, wp.vec4), rotmat, shift, self.vertices]
        self._held: list[list] = []
        self._launches = [self._record(_chain, max_persons, chain_inputs)]
        if body.posedirs is None:  # one pass over the surface
            self._launches.append(self._record(_shape_and_blend, (max_persons, v), shape_inputs + skin_inputs))
        else:
            shaped = self._zeros(max_persons * v, wp.vec3)
            pose_inputs = [self._put(_blocked(body.posedirs), wp.vec3), feature, shaped]
            self._launches.append(self._record(_shape, (max_persons, v), shape_inputs + pose_inputs))
            self._launches.append(self._record(_blend, (max_persons, v), [v, shaped, *skin_inputs]))

    def pose_on_device(self, params: BodyParams) -> int:
        """Pose into :attr:`vertices` and :attr:`joints` without waiting; the number of persons.  Raises ShapeError."""
        persons = check_params(params)
        if persons > self.max_persons:
            raise ShapeError(f"expected at most {self.max_persons} persons, got {persons}: raise max_persons")
        if persons == 0:
            return 0
        if self.device.is_cuda:
            wp.synchronize_stream(self.device)  # the last upload may still read the staging buffer
        betas, rotvec, translation = self._rows
        betas[:persons] = params.betas
        rotvec[:persons, :3] = params.root_rotvec
        rotvec[:persons, 3:] = np.reshape(params.joint_rotvec, (persons, -1))
        translation[:persons] = params.t_camera_root
        if self.device.is_cuda:
            wp.copy(self._params, self._host)
        self.queue(persons)
        return persons

    def queue(self, persons: int) -> None:
        """Pose the first ``persons`` of :attr:`params` as they are on the device, without waiting."""
        for index, launch in enumerate(self._launches):
            launch.set_dim(persons if index == 0 else (persons, self._v))
            launch.launch()

    def pose(self, params: BodyParams) -> PosedBody:
        """Posed surface (P,V,3) and joints (P,24,3) in the camera frame, m, float32; the arrays are the caller's own."""
        persons = self.pose_on_device(params)
        return PosedBody(self._download(self.vertices, persons, self._v), self._download(self.joints, persons, NUM_JOINTS))

    def outline(self, params: BodyParams) -> np.ndarray:
        """Posed places (P,n,3), m, camera frame, of the n vertices that boxes are made of; the arrays are the caller's own.

        With all vertices, finding people took 1.5 ms of a frame, with these 0.9 (medians, in turn, on a busy machine).
        """
        return self._outline.pose(params).vertices

    @cached_property
    def _outline(self) -> Skinner:
        return Skinner(thinned(self.body, outline_vertices(self.body)), str(self.device), self.max_persons)

    def _record(self, kernel: wp.Kernel, dim: int | tuple[int, int], inputs: list) -> wp.Launch:
        self._held.append(inputs)  # recorded launches of Warp up to 1.14 do not keep their arrays
        return wp.launch(kernel, dim=dim, inputs=inputs, device=self.device, record_cmd=True)

    def _download(self, array: wp.array, persons: int, rows: int) -> np.ndarray:
        if persons == 0:
            return np.zeros((0, rows, 3), np.float32)
        part = array[: persons * rows].numpy()
        return (part.copy() if self.device.is_cpu else part).reshape(persons, rows, 3)

    def _zeros(self, count: int, dtype: type) -> wp.array:
        return wp.zeros(count, dtype=dtype, device=self.device)

    def _put(self, array: np.ndarray, dtype: type) -> wp.array:
        kind = np.int32 if dtype in (int, wp.vec4i) else np.float32
        return wp.array(np.ascontiguousarray(array, kind), dtype=dtype, device=self.device)

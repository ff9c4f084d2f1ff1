"""Memory of a fitter: the body's constants and the working set, allocated once."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import warp as wp

from ..types import NUM_UNKNOWNS
from . import tables
from .blocks import common, gram, landmarks, pose_prior, priors, solve, state, surface
from .layout import (
    CHUNK_ROWS,
    EXTRA_CHUNKS,
    HALVES,
    MAX_ANCHORS,
    MAX_LANDMARKS,
    MAX_LIMBS,
    ROW,
    TOGETHER,
    WIDTH,
    column_in_row,
    row_of_joint,
)
from .options import default_limits


class Mirror:
    """An array that the host fills and the device reads.  On the CPU both are the same memory."""

    def __init__(self, count: int, dtype, device):
        on_host = device.is_cpu
        self._host = wp.zeros(count, dtype=dtype, device="cpu", pinned=not on_host)
        self.device = self._host if on_host else wp.zeros(count, dtype=dtype, device=device)
        self.host = self._host.numpy()
        self._copy = not on_host
        self.fetched = False

    def push(self) -> None:
        """Host to device, in stream order; nothing on the CPU."""
        if self._copy:
            wp.copy(self.device, self._host)

    def clear(self, count: int) -> None:
        """Zero the first ``count`` scalars on the device."""
        if self._copy:
            self.device[:count].zero_()
        else:
            self.host[:count] = 0

    def fetch(self) -> None:
        """Queue the copy to the host.  Who waits for it sets ``fetched``: the next ``pull`` then copies nothing."""
        if self._copy:
            wp.copy(self._host, self.device)

    def pull(self) -> np.ndarray:
        """Device to host; waits for the device, unless the copy has been fetched."""
        if self._copy and not self.fetched:
            wp.copy(self._host, self.device)
            wp.synchronize_device(self.device.device)
        self.fetched = False
        return self.host


def make_kernels(F) -> SimpleNamespace:
    """All kernels for one scalar type."""
    return SimpleNamespace(
        types=common.make(F),
        state=state.make(F),
        surface=surface.make(F),
        landmarks=landmarks.make(F),
        priors=priors.make(F),
        pose_prior=pose_prior.make(F),
        gram=gram.make(F),
        solve=solve.make(F),
    )


def upload_body(body, T, device) -> SimpleNamespace:
    """The body's constants on the device."""
    npf = np.float32 if T.F is wp.float32 else np.float64
    v = len(body.v_template)

    def put(data, dtype, shape):
        return wp.array(np.ascontiguousarray(np.asarray(data).reshape(shape)), dtype=dtype, device=device)

    has_pose = body.posedirs is not None
    posedirs = np.zeros((1, 3), npf)
    if has_pose:
        posedirs = np.asarray(body.posedirs, npf).reshape(207, v, 3).transpose(1, 0, 2).reshape(-1, 3)
    low, high = default_limits()
    carried = tables.face_tables(body)
    return SimpleNamespace(
        faces=put(body.faces.astype(np.int32), wp.vec3i, (-1, 3)),
        v_template=put(body.v_template.astype(npf), T.V3, (-1, 3)),
        shapedirs=put(body.shapedirs.astype(npf), T.M310, (-1, 3, 10)),
        posedirs=put(posedirs, T.V3, (-1, 3)),
        has_posedirs=int(has_pose),
        joint_template=put(body.joint_template.astype(npf), T.V3, (-1, 3)),
        joint_shapedirs=put(body.joint_shapedirs.astype(npf), T.M310, (-1, 3, 10)),
        skin_joint=put(body.skin_joint.astype(np.int32), wp.vec4i, (-1, 4)),
        skin_weight=put(body.skin_weight.astype(npf), T.V4, (-1, 4)),
        face_start=put(carried.start, wp.int32, (-1,)),
        face_weight=put(carried.weight.astype(npf), T.V3, (-1, 3)),
        face_class=carried.face_class,
        class_size=carried.class_size,
        class_groups=carried.class_groups,
        class_start=put(carried.class_start, wp.int32, (-1,)),
        class_joint=put(carried.class_joint, wp.int32, (-1,)),
        path_start=put(carried.path_start, wp.int32, (-1,)),
        path_joint=put(carried.path_joint, wp.int32, (-1,)),
        row_of_joint=put(row_of_joint(), wp.int32, (-1,)),
        in_row=put(column_in_row(), wp.int32, (-1,)),
        place_of_block=put(tables.place_of_block(), wp.int32, (-1,)),
        parents=put(np.maximum(body.parents, 0).astype(np.int32), wp.int32, (-1,)),
        limit_low=put(low.astype(npf), T.V3, (-1, 3)),
        limit_high=put(high.astype(npf), T.V3, (-1, 3)),
    )


def upload_landmarks(landmarks, T, device) -> SimpleNamespace:
    """One keypoint set on the device."""
    npf = np.float32 if T.F is wp.float32 else np.float64
    index = np.asarray(landmarks.vertex_index, np.int32)
    weight = np.asarray(landmarks.vertex_weight, npf)
    columns = max(index.shape[1], 1)
    if index.shape[1] == 0:
        index, weight = np.zeros((len(index), 1), np.int32), np.zeros((len(index), 1), npf)
    joint = np.asarray(landmarks.joint_weights, npf)
    placed = (np.abs(joint).sum(1) + np.abs(weight).sum(1)) > 0
    return SimpleNamespace(
        count=len(joint),
        vertices=columns,
        placed=placed,
        joint_weight=wp.array(np.ascontiguousarray(joint.reshape(-1)), dtype=T.F, device=device),
        vertex_index=wp.array(np.ascontiguousarray(index.reshape(-1)), dtype=wp.int32, device=device),
        vertex_weight=wp.array(np.ascontiguousarray(weight.reshape(-1)), dtype=T.F, device=device),
    )


def allocate(T, persons: int, points: int, chunks: int, joints_of_point: int, history: int, device) -> SimpleNamespace:
    """The working set for up to ``persons`` persons with up to ``points`` surface points each, ``chunks`` chunks of rows a
    person, and up to ``joints_of_point`` joints that carry a point."""
    n = persons * points
    keys = persons * MAX_LANDMARKS
    limbs = persons * MAX_LIMBS
    # A CPU works on one person after the other, a few chunks at a time, in the same memory.
    row_chunks, part_chunks = (min(chunks, TOGETHER), chunks) if device.is_cpu else (persons * chunks, persons * chunks)
    j = persons * 24

    def mirror(count, dtype):
        return Mirror(count, dtype, device)

    def zeros(count, dtype):
        return wp.zeros(count, dtype=dtype, device=device)

    return SimpleNamespace(
        # in: evidence
        point_start=mirror(persons + 1, wp.int32),
        face=mirror(n, wp.int32),
        kind=mirror(n, wp.int32),
        bary=mirror(n, T.V3),
        target=mirror(n, T.V3),
        normal=mirror(n, T.V3),
        sqrt_weight=mirror(n, T.F),
        joints_class=mirror(n, wp.int32),
        share_start=mirror(n, wp.int32),
        chunk_rows=mirror(persons * chunks, wp.int32),
        chunk_groups=mirror(persons * chunks, wp.int32),
        camera=mirror(persons, T.V4),
        key_uv=mirror(2 * keys, T.F),
        key_weight=mirror(keys, T.F),
        limb_first=mirror(MAX_LIMBS, wp.int32),
        limb_second=mirror(MAX_LIMBS, wp.int32),
        limb_direction=mirror(limbs, T.V3),
        limb_weight=mirror(limbs, T.F),
        # in: start and priors
        rotvec=mirror(j, T.V3),
        in_beta=mirror(persons, T.V10),
        in_t=mirror(persons, T.V3),
        anchors=mirror(1, wp.int32),
        anchor_rotvec=mirror(MAX_ANCHORS * j, T.V3),
        anchor_rotation=zeros(MAX_ANCHORS * j, T.M33),
        anchor_beta=mirror(MAX_ANCHORS * persons, T.V10),
        anchor_t=mirror(MAX_ANCHORS * persons, T.V3),
        inv_sigma_rotation=mirror(MAX_ANCHORS * j, T.F),
        inv_sigma_beta=mirror(MAX_ANCHORS * persons, T.V10),
        inv_sigma_t=mirror(MAX_ANCHORS * persons, T.V3),
        pose_mean=mirror(persons * 23, T.V3),
        pose_precision=mirror(persons * 69 * 69, T.F),
        # state, two slots
        local=zeros(2 * j, T.M33),
        beta=zeros(2 * persons, T.V10),
        t=zeros(2 * persons, T.V3),
        rest=zeros(2 * j, T.V3),
        rotation=zeros(2 * j, T.M33),
        joint=zeros(2 * j, T.V3),
        carry=zeros(2 * j, T.V3),
        carry_by_shape=zeros(2 * j, T.M316),
        feature=zeros(persons * 207, T.F),
        # linearisation
        share_rest=zeros(n * joints_of_point, T.V4),
        share_shape=zeros(n * joints_of_point, T.M310),
        rows=zeros(row_chunks * CHUNK_ROWS * ROW, T.F),
        extra_rows=zeros(persons * EXTRA_CHUNKS * CHUNK_ROWS * ROW, T.F),
        r2=mirror(2 * n, T.F),
        key_r2=mirror(2 * keys, T.F),
        r2_start=mirror(n, T.F),
        key_r2_start=mirror(keys, T.F),
        key_x=mirror(keys, T.V3),
        key_jacobian=mirror(keys * NUM_UNKNOWNS, T.V3),
        joint_x=zeros(j, T.V3),
        joint_jacobian=mirror(j * NUM_UNKNOWNS, T.V3),
        pose_error=zeros(persons * 23, T.V3),
        pose_jacobian=zeros(persons * 23, T.M33),
        gram_part=zeros(part_chunks * HALVES * 8, T.V16),
        gram=mirror(2 * persons * WIDTH * WIDTH, T.F),
        prior_gram=mirror(2 * persons * WIDTH * WIDTH, T.F),
        prior_cost=mirror(persons * 25, T.F),
        pose_cost=mirror(persons * 23, T.F),
        # solver
        matrix=wp.zeros((persons * WIDTH, WIDTH), dtype=T.F, device=device),
        jacobi=zeros(persons * WIDTH, T.F),
        rhs=zeros(persons * WIDTH, T.F),
        solution=zeros(persons * WIDTH, T.F),
        step=mirror(persons * WIDTH, T.F),
        cur=mirror(persons, wp.int32),
        scale=mirror(persons, T.F),
        damping=mirror(persons, T.F),
        growth=mirror(persons, T.F),
        cost=mirror(persons, T.F),
        done=mirror(persons, wp.int32),
        accepted=mirror(persons, wp.int32),
        iteration=mirror(persons, wp.int32),
        history=mirror(persons * (history + 1), T.F),
        out_rotvec=mirror(j, T.V3),
        out_beta=mirror(persons, T.V10),
        out_t=mirror(persons, T.V3),
    )

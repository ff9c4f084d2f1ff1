"""Memory of a fitter: the body's constants and the working set, allocated once."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import warp as wp

from ..arena import Arena
from ..body.model import face_parts
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
    """One array of an arena, which the host fills and the device reads, or the other way round."""

    def __init__(self, arena: Arena, name: str) -> None:
        self._arena = arena
        self.host, self.device = getattr(arena.host, name), getattr(arena.device, name)

    def pull(self) -> np.ndarray:
        """The device's values; waits for the device, once for all arrays of the arena."""
        self._arena.arrive()
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
        face_part=face_parts(body),
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

    def zeros(count, dtype):
        return wp.zeros(count, dtype=dtype, device=device)

    inbox = Arena(
        device,
        point_start=(persons + 1, wp.int32),
        face=(n, wp.int32),
        kind=(n, wp.int32),
        bary=(n, T.V3),
        target=(n, T.V3),
        normal=(n, T.V3),
        sqrt_weight=(n, T.F),
        share=(n, T.F),
        joints_class=(n, wp.int32),
        share_start=(n, wp.int32),
        chunk_rows=(persons * chunks, wp.int32),
        chunk_groups=(persons * chunks, wp.int32),
        camera=(persons, T.V4),
        key_uv=(2 * keys, T.F),
        key_weight=(keys, T.F),
        limb_first=(MAX_LIMBS, wp.int32),
        limb_second=(MAX_LIMBS, wp.int32),
        limb_direction=(limbs, T.V3),
        limb_weight=(limbs, T.F),
        rotvec=(j, T.V3),
        in_beta=(persons, T.V10),
        in_t=(persons, T.V3),
        anchors=(1, wp.int32),
        anchor_rotvec=(MAX_ANCHORS * j, T.V3),
        anchor_beta=(MAX_ANCHORS * persons, T.V10),
        anchor_t=(MAX_ANCHORS * persons, T.V3),
        inv_sigma_rotation=(MAX_ANCHORS * j, T.F),
        inv_sigma_beta=(MAX_ANCHORS * persons, T.V10),
        inv_sigma_t=(MAX_ANCHORS * persons, T.V3),
        pose_mean=(persons * 23, T.V3),
        pose_precision=(persons * 69 * 69, T.F),
        pose_cost=(persons * 23, T.F),
    )
    outbox = Arena(
        device,
        r2=(2 * n, T.F),
        key_r2=(2 * keys, T.F),
        r2_start=(n, T.F),
        key_r2_start=(keys, T.F),
        joint_jacobian=(j * NUM_UNKNOWNS, T.V3),
        gram=(2 * persons * WIDTH * WIDTH, T.F),
        prior_gram=(2 * persons * WIDTH * WIDTH, T.F),
        step=(persons * WIDTH, T.F),
        cur=(persons, wp.int32),
        damping=(persons, T.F),
        cost=(persons, T.F),
        done=(persons, wp.int32),
        accepted=(persons, wp.int32),
        iteration=(persons, wp.int32),
        history=(persons * (history + 1), T.F),
        out_rotvec=(j, T.V3),
        out_beta=(persons, T.V10),
        out_t=(persons, T.V3),
    )
    crossing = {name: Mirror(arena, name) for arena in (inbox, outbox) for name in vars(arena.host)}
    return SimpleNamespace(
        inbox=inbox,  # evidence, start and priors
        outbox=outbox,  # results, and what LAPACK works on
        **crossing,
        anchor_rotation=zeros(MAX_ANCHORS * j, T.M33),
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
        joint_x=zeros(j, T.V3),
        pose_error=zeros(persons * 23, T.V3),
        pose_jacobian=zeros(persons * 23, T.M33),
        gram_part=zeros(part_chunks * HALVES * 8, T.V16),
        # solver
        matrix=wp.zeros((persons * WIDTH, WIDTH), dtype=T.F, device=device),
        jacobi=zeros(persons * WIDTH, T.F),
        rhs=zeros(persons * WIDTH, T.F),
        solution=zeros(persons * WIDTH, T.F),
        key_x=zeros(keys, T.V3),
        key_jacobian=zeros(keys * NUM_UNKNOWNS, T.V3),
        prior_cost=zeros(persons * 25, T.F),
        scale=zeros(persons, T.F),
        growth=zeros(persons, T.F),
    )

"""Recorded launches: what one evaluation and one iteration consist of, in the order in which they run."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import warp as wp

from ..types import NUM_JOINTS
from .layout import CHUNK_POINTS, CHUNK_ROWS, HALVES, MAX_ANCHORS, TOGETHER, WIDTH
from .options import INF, FitOptions


@dataclass(frozen=True)
class Shape:
    """Everything that fixes the launches; one plan is recorded per value."""

    persons: int
    points: int  # of the person with most, rounded up to whole chunks
    landmarks: str | None
    limbs: int
    extra_chunks: int  # of rows of landmarks and limbs
    pose_prior: bool


@dataclass
class Plan:
    """Launches by stage, and the graphs recorded from them."""

    load: list
    evaluation: list  # state -> rows -> normal matrix with priors
    begin: list
    propose: list  # normal matrix -> step; empty when the host does it
    retract: list
    decide: list
    end: list  # parameters, the joints' Jacobian, the priors' share of the normal matrix at the result
    graphs: dict = field(default_factory=dict)


def build(kernels, body, b, shape: Shape, landmarks, joints_set, options: FitOptions, capacity: int, slots: int, key_slots: int,
          history: int, device, on_device: bool) -> Plan:  # fmt: skip
    """Record every launch for one shape."""
    k, p = kernels, shape.persons
    f = k.types.F
    b = SimpleNamespace(**{name: (m.device if hasattr(m, "pull") else m) for name, m in vars(b).items()})

    def rec(kernel, dim, *args):
        return wp.launch(kernel, dim=dim, inputs=list(args), device=device, record_cmd=True)

    widest = max(options.robust_start, options.robust_scale)  # no step may be judged at a narrower scale than the start's
    scale_args = (b.scale, f(options.robust_factor), f(options.robust_scale))
    extra_stride = shape.extra_chunks * CHUNK_ROWS
    inv = lambda s: 0.0 if s == INF else 1.0 / s  # noqa: E731
    load = [
        rec(k.state.load, 24 * p, p, b.rotvec, b.in_beta, b.in_t, body.joint_template, body.joint_shapedirs,
            b.cur, b.local, b.beta, b.t, b.rest, f(widest / options.robust_factor), b.scale),
        rec(k.state.rotations, NUM_JOINTS * capacity * MAX_ANCHORS, b.anchors, 24 * capacity, b.anchor_rotvec, b.anchor_rotation),
    ]  # fmt: skip
    if shape.points:
        load.append(
            rec(k.surface.gather, p * shape.points, p, b.point_start, b.face, b.bary, b.share_start, body.faces, body.v_template,
                body.shapedirs, body.face_start, body.face_weight, b.share_rest, b.share_shape)
        )  # fmt: skip
    evaluate = [
        rec(k.state.kinematics, p, p, body.parents, b.cur, b.local, b.t, b.rest, b.rotation, b.joint, b.carry),
        rec(k.state.motion_of_shape, 24 * p, p, body.parents, body.joint_shapedirs, b.cur, b.local, b.rotation,
            b.carry_by_shape, b.feature),
    ]  # fmt: skip
    if landmarks is not None:
        n = landmarks.count
        evaluate += [
            rec(k.landmarks.positions, p * n, p, n, landmarks.vertices, body.has_posedirs, landmarks.joint_weight,
                landmarks.vertex_index, landmarks.vertex_weight, body.v_template, body.shapedirs, body.posedirs,
                body.joint_shapedirs, body.skin_joint, body.skin_weight, body.parents, b.cur, b.rotation, b.joint, b.carry,
                b.carry_by_shape, b.beta, b.feature, b.key_x, b.key_jacobian),
            rec(k.landmarks.keypoint_rows, p * n, n, b.key_uv, b.key_weight, extra_stride, body.in_row, b.camera,
                f(options.z_min_m), *scale_args, f(options.keypoint_scale_ratio), key_slots, b.cur, b.key_x, b.key_jacobian,
                b.extra_rows, b.key_r2),
        ]  # fmt: skip
        if shape.limbs:
            evaluate.append(
                rec(k.landmarks.direction_rows, p * shape.limbs, shape.limbs, n, b.limb_first, b.limb_second, b.limb_direction,
                    b.limb_weight, extra_stride, body.in_row, b.key_x, b.key_jacobian, b.extra_rows)
            )  # fmt: skip
    on_cpu = wp.get_device(device).is_cpu

    def seen_as(array, dtype, length):
        """The same memory as vectors."""
        return wp.array(ptr=array.ptr, dtype=dtype, shape=array.size // length, device=device)

    rows16 = seen_as(b.rows, k.types.V16, 16)
    points_chunks = shape.points // CHUNK_POINTS
    chunks = points_chunks + shape.extra_chunks

    def rows_of_points(first_person, persons, first_chunk, count):
        """``count`` chunks of each of ``persons`` persons."""
        return rec(k.surface.rows, persons * count * CHUNK_POINTS, first_person, first_chunk, count, chunks, p, slots,
            b.point_start, b.chunk_groups, b.kind, b.target, b.normal, b.sqrt_weight, b.joints_class, b.share_start, b.share_rest,
            b.share_shape, body.class_start, body.class_joint, body.path_start, body.path_joint, body.row_of_joint, body.parents,
            body.has_posedirs, b.face, b.bary, body.faces, body.face_start, body.face_weight, body.posedirs, b.feature, b.camera,
            f(options.z_min_m), *scale_args, b.share, b.cur, b.rotation, b.joint, b.carry,
            b.carry_by_shape, b.beta, b.rows, rows16, b.r2)  # fmt: skip

    # A CPU takes persons one after the other and their chunks TOGETHER at a time, rows and product in turn, so that the rows
    # are still in the cache; a GPU takes all at once.
    together, span = (TOGETHER, TOGETHER) if on_cpu else (max(points_chunks, 1), 1)
    extra = shape.extra_chunks
    parts = -(-points_chunks // span) + (extra > 0)

    def gram_of(rows, first_person, persons, first_chunk, count, span, first_part, first_row=0):
        """Product of ``count`` chunks, ``span`` of them in a thread."""
        spans = -(-count // span)
        return rec(k.gram.gram, persons * spans * HALVES, first_person, first_chunk, spans, min(span, count), chunks, first_row,
                   first_part, parts, b.chunk_rows, b.chunk_groups, seen_as(rows, k.types.V8, 8),
                   seen_as(rows, k.types.V16, 16), b.gram_part)  # fmt: skip

    gram = []
    for first, persons in [(i, 1) for i in range(p)] if on_cpu else [(0, p)]:
        for c in range(0, points_chunks, together):
            here = min(together, points_chunks - c)
            gram += [rows_of_points(first, persons, c, here), gram_of(b.rows, first, persons, c, here, span, c // span)]
        if extra:
            gram.append(gram_of(b.extra_rows, first, persons, points_chunks, extra, extra, parts - 1, first * extra_stride))
        gram.append(rec(k.gram.gram_sum, persons * HALVES * 8, first, p, parts, b.gram_part, body.place_of_block, b.cur, b.gram))

    def priors_into(matrix):
        out = [
            rec(k.priors.add, 25 * p, p, capacity, b.anchors, b.anchor_rotation, b.anchor_beta, b.anchor_t, b.inv_sigma_rotation,
                b.inv_sigma_beta, b.inv_sigma_t, f(inv(options.shape_sigma)), f(inv(options.limit_sigma_rad)),
                body.limit_low, body.limit_high, body.parents, b.cur, b.local, b.rotation, b.beta, b.t, matrix, b.prior_cost)
        ]  # fmt: skip
        if shape.pose_prior:
            out += [
                rec(k.pose_prior.chart, 23 * p, p, body.parents, b.pose_mean, b.cur, b.local, b.rotation, b.pose_error,
                    b.pose_jacobian),
                rec(k.pose_prior.add, 23 * p, p, f(options.pose_prior_weight), b.pose_precision, b.pose_error, b.pose_jacobian,
                    b.cur, matrix, b.pose_cost),
            ]  # fmt: skip
        return out

    begin = [
        rec(k.solve.begin, p, p, history + 1, f(options.damping), f(widest), b.gram, b.prior_cost, b.pose_cost,
            b.cur, b.scale, b.damping, b.growth, b.cost, b.done, b.accepted, b.iteration, b.history)
    ]  # fmt: skip
    if shape.points:
        begin.append(rec(k.solve.keep, min(p * shape.points, slots), b.r2, b.r2_start))
    if landmarks is not None:
        begin.append(rec(k.solve.keep, p * landmarks.count, b.key_r2, b.key_r2_start))
    propose = []
    if on_device:
        propose = [
            rec(k.solve.damp, WIDTH * p, p, b.cur, b.gram, b.damping, b.jacobi, b.matrix, b.rhs),
            wp.launch_tiled(k.solve.cholesky, dim=[p], inputs=[b.matrix, b.rhs, b.solution], block_dim=64, device=device,
                            record_cmd=True),
            rec(k.solve.unscale, WIDTH * p, b.jacobi, b.solution, b.step),
        ]  # fmt: skip
    retract = [
        rec(k.state.retract, 24 * p, p, body.parents, body.joint_template, body.joint_shapedirs, b.step, b.rotation, b.cur,
            b.local, b.beta, b.t, b.rest)
    ]  # fmt: skip
    decide = [
        rec(k.solve.decide, p, p, history + 1, f(options.robust_factor), f(options.robust_scale), f(options.tolerance),
            f(options.damping_min), f(options.damping_max), b.gram, b.step, b.prior_cost, b.pose_cost, b.cur, b.scale,
            b.damping, b.growth, b.cost, b.done, b.accepted, b.iteration, b.history)
    ]  # fmt: skip
    j = joints_set
    end = [
        rec(k.state.export, 24 * p, p, b.cur, b.local, b.beta, b.t, b.out_rotvec, b.out_beta, b.out_t),
        # From here on the result plays the trial, which is what the kernels below work on.
        rec(k.solve.swap, p, b.cur),
        rec(k.landmarks.positions, p * j.count, p, j.count, j.vertices, 0, j.joint_weight, j.vertex_index, j.vertex_weight,
            body.v_template, body.shapedirs, body.posedirs, body.joint_shapedirs, body.skin_joint, body.skin_weight,
            body.parents, b.cur, b.rotation, b.joint, b.carry, b.carry_by_shape, b.beta, b.feature, b.joint_x, b.joint_jacobian),
        rec(k.solve.clear, 2 * p * WIDTH * WIDTH // 16, seen_as(b.prior_gram, k.types.V16, 16)),
        *priors_into(b.prior_gram),
        rec(k.solve.swap, p, b.cur),
    ]  # fmt: skip
    return Plan(load, evaluate + gram + priors_into(b.gram), begin, propose, retract, decide, end)

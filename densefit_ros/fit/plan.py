"""Recorded launches: what one evaluation and one iteration consist of, in the order in which they run."""

from __future__ import annotations

from dataclasses import dataclass, field

import warp as wp

from .layout import CHUNK_POINTS, LOWER_BLOCKS, WIDTH
from .options import INF, FitOptions


TOGETHER = 4  # chunks a launch on a CPU: 180 kB of rows


@dataclass(frozen=True)
class Shape:
    """Everything that fixes the launches; one plan is recorded per value."""

    persons: int
    points: int  # of the person with most, rounded up to whole chunks
    landmarks: str | None
    limbs: int
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
    d = {name: (m.device if hasattr(m, "push") else m) for name, m in vars(b).items()}

    class B:
        __getattr__ = staticmethod(d.__getitem__)

    b = B()

    def rec(kernel, dim, *args):
        return wp.launch(kernel, dim=dim, inputs=list(args), device=device, record_cmd=True)

    scale_args = (b.scale, f(options.robust_factor), f(options.robust_scale))
    inv = lambda s: 0.0 if s == INF else 1.0 / s  # noqa: E731
    load = [
        rec(k.state.load, 24 * p, p, b.rotvec, b.in_beta, b.in_t, body.joint_template, body.joint_shapedirs,
            b.cur, b.local, b.beta, b.t, b.rest, f(options.robust_start / options.robust_factor), b.scale),
        rec(k.state.rotations, 24 * capacity * 4, b.anchors, 24 * capacity, b.anchor_rotvec, b.anchor_rotation),
    ]  # fmt: skip
    evaluate = [
        rec(k.state.kinematics, p, p, body.parents, b.cur, b.local, b.t, b.rest, b.rotation, b.joint, b.carry),
        rec(k.state.motion_of_shape, 24 * p, p, body.parents, body.joint_shapedirs, b.cur, b.local, b.rotation, b.motion,
            b.feature),
    ]  # fmt: skip
    if landmarks is not None:
        n = landmarks.count
        evaluate += [
            rec(k.landmarks.positions, p * n, p, n, landmarks.vertices, body.has_posedirs, landmarks.joint_weight,
                landmarks.vertex_index, landmarks.vertex_weight, body.v_template, body.shapedirs, body.posedirs,
                body.joint_shapedirs, body.skin_joint, body.skin_weight, body.parents, b.cur, b.rotation, b.joint, b.carry,
                b.motion, b.beta, b.feature, b.key_x, b.key_jacobian),
            rec(k.landmarks.keypoint_rows, p * n, n, b.key_uv, b.key_weight, b.key_row0, b.camera, f(options.z_min_m),
                *scale_args, f(options.keypoint_scale_ratio), key_slots, b.cur, b.key_x, b.key_jacobian, b.rows, b.key_r2),
        ]  # fmt: skip
        if shape.limbs:
            evaluate.append(
                rec(k.landmarks.direction_rows, p * shape.limbs, shape.limbs, n, b.limb_first, b.limb_second, b.limb_direction,
                    b.limb_weight, b.limb_row0, b.key_x, b.key_jacobian, b.rows)
            )  # fmt: skip
    # The same memory seen as 8-vectors.
    rows8 = wp.array(ptr=b.rows.ptr, dtype=k.types.V8, shape=b.rows.size // 8, device=device)
    gram8 = wp.array(ptr=b.gram.ptr, dtype=k.types.V8, shape=b.gram.size // 8, device=device)

    def rows_of_points(first_person, persons, first_point, count):
        """``count`` points of each of ``persons`` persons."""
        return rec(k.surface.rows, persons * count, first_person, first_point, count, b.point_start, p, slots, body.has_posedirs,
            b.face, b.kind, b.bary, b.target, b.normal, b.sqrt_weight, b.row0, b.camera, f(options.z_min_m), *scale_args,
            f(options.independent_share), body.faces, body.v_template, body.shapedirs, body.posedirs, body.face_start,
            body.face_joint, body.face_weight, body.path_start, body.path_joint, body.parents, b.cur, b.rotation, b.joint,
            b.carry, b.motion, b.beta, b.feature, b.rows, b.r2)  # fmt: skip

    def gram_of_rows(first_person, persons, first_chunk, count):
        return rec(k.solve.gram, persons * count * LOWER_BLOCKS, first_person, first_chunk, chunks, count, b.row_start, rows8,
                   b.gram_part)  # fmt: skip

    extra_rows = 0 if landmarks is None else 2 * landmarks.count + 3 * shape.limbs
    chunks = -(-(2 * shape.points + extra_rows) // (2 * CHUNK_POINTS))
    chunks_of_points = shape.points // CHUNK_POINTS
    if wp.get_device(device).is_cpu:
        # Persons and chunks one after the other, rows and product in turn, so that the rows are still in the cache.
        gram = []
        for i in range(p):
            for c in range(0, chunks, TOGETHER):
                here = min(TOGETHER, chunks - c)
                points = min(here, chunks_of_points - c)
                if points > 0:
                    gram.append(rows_of_points(i, 1, c * CHUNK_POINTS, points * CHUNK_POINTS))
                gram.append(gram_of_rows(i, 1, c, here))
    else:
        gram = [rows_of_points(0, p, 0, shape.points)] if shape.points else []
        if chunks:
            gram.append(gram_of_rows(0, p, 0, chunks))
    gram.append(rec(k.solve.gram_sum, p * LOWER_BLOCKS, p, chunks, b.gram_part, b.cur, gram8))

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
        rec(k.solve.begin, p, p, history + 1, f(options.damping), f(options.robust_start), b.gram, b.prior_cost, b.pose_cost,
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
            body.parents, b.cur, b.rotation, b.joint, b.carry, b.motion, b.beta, b.feature, b.joint_x, b.joint_jacobian),
        rec(k.solve.clear, 2 * p * WIDTH * WIDTH // 8, wp.array(ptr=b.prior_gram.ptr, dtype=k.types.V8,
            shape=b.prior_gram.size // 8, device=device)),
        *priors_into(b.prior_gram),
        rec(k.solve.swap, p, b.cur),
    ]  # fmt: skip
    return Plan(load, evaluate + gram + priors_into(b.gram), begin, propose, retract, decide, end)

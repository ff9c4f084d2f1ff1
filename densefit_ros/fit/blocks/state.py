"""The body's state: import, retraction by a step, forward kinematics.

Two slots hold the state of every person: the best iterate (``cur``) and the trial.  All kernels of an evaluation write
and read the trial slot ``1 - cur``; accepting a step is flipping one integer.
"""

import functools
from types import SimpleNamespace

import warp as wp

from ..layout import COL_BETA, COL_ROT
from . import common, residual


@functools.lru_cache(maxsize=2)
def make(F):
    """Kernels ``load``, ``retract``, ``kinematics`` and ``export`` for scalar ``F``."""
    T = common.make(F)
    V3, V10, M33, M310, M316 = T.V3, T.V10, T.M33, T.M310, T.M316
    exp_so3, log_so3, renormalise = T.exp_so3, T.log_so3, T.renormalise
    widen = residual.make(F).widen
    col_rot = wp.constant(COL_ROT)
    col_beta = wp.constant(COL_BETA)

    @wp.kernel(enable_backward=False, module="unique")
    def load(
        persons: int,
        rotvec: wp.array(dtype=V3),
        in_beta: wp.array(dtype=V10),
        in_t: wp.array(dtype=V3),
        joint_template: wp.array(dtype=V3),
        joint_shapedirs: wp.array(dtype=M310),
        cur: wp.array(dtype=int),
        local: wp.array(dtype=M33),
        beta: wp.array(dtype=V10),
        t: wp.array(dtype=V3),
        rest: wp.array(dtype=V3),
        scale_before: F,
        scale: wp.array(dtype=F),
    ):
        """Write the given parameters into slot 0 and make it the trial; rows will shrink the robust scale once."""
        i = wp.tid()
        p = i / 24
        k = i - p * 24
        local[i] = exp_so3(rotvec[i])
        rest[i] = joint_template[k] + joint_shapedirs[k] * in_beta[p]
        if k == 0:
            cur[p] = 1
            scale[p] = scale_before
            beta[p] = in_beta[p]
            t[p] = in_t[p]

    @wp.kernel(enable_backward=False, module="unique")
    def retract(
        persons: int,
        parents: wp.array(dtype=int),
        joint_template: wp.array(dtype=V3),
        joint_shapedirs: wp.array(dtype=M310),
        step: wp.array(dtype=F),
        rotation: wp.array(dtype=M33),
        cur: wp.array(dtype=int),
        local: wp.array(dtype=M33),
        beta: wp.array(dtype=V10),
        t: wp.array(dtype=V3),
        rest: wp.array(dtype=V3),
    ):
        """trial = current moved by ``step``: rotations by Exp from the left in camera axes, the rest by addition."""
        i = wp.tid()
        p = i / 24
        k = i - p * 24
        src = cur[p] * persons + p
        dst = (1 - cur[p]) * persons + p
        base = p * 88
        d = V3(step[base + col_rot + 3 * k], step[base + col_rot + 3 * k + 1], step[base + col_rot + 3 * k + 2])
        if k > 0:
            d = wp.transpose(rotation[src * 24 + parents[k]]) * d
        local[dst * 24 + k] = renormalise(exp_so3(d) * local[src * 24 + k])
        b = beta[src]
        for c in range(10):
            b[c] += step[base + col_beta + c]
        rest[dst * 24 + k] = joint_template[k] + joint_shapedirs[k] * b
        if k == 0:
            beta[dst] = b
            t[dst] = t[src] + V3(step[base], step[base + 1], step[base + 2])

    @wp.kernel(enable_backward=False, module="unique")
    def kinematics(
        persons: int,
        parents: wp.array(dtype=int),
        cur: wp.array(dtype=int),
        local: wp.array(dtype=M33),
        t: wp.array(dtype=V3),
        rest: wp.array(dtype=V3),
        rotation: wp.array(dtype=M33),
        joint: wp.array(dtype=V3),
        carry: wp.array(dtype=V3),
    ):
        """Global rotations, posed joints and ``carry = p_k - G_k J_k``: bone k takes rest x to ``G_k x + carry_k``."""
        p = wp.tid()
        s = (1 - cur[p]) * persons + p
        base = s * 24
        rotation[base] = local[base]
        joint[base] = rest[base] + t[s]
        carry[base] = joint[base] - local[base] * rest[base]
        for k in range(1, 24):
            q = base + parents[k]
            g = rotation[q] * local[base + k]
            x = joint[q] + rotation[q] * (rest[base + k] - rest[q])
            rotation[base + k] = g
            joint[base + k] = x
            carry[base + k] = x - g * rest[base + k]

    @wp.kernel(enable_backward=False, module="unique")
    def motion_of_shape(
        persons: int,
        parents: wp.array(dtype=int),
        joint_shapedirs: wp.array(dtype=M310),
        cur: wp.array(dtype=int),
        local: wp.array(dtype=M33),
        rotation: wp.array(dtype=M33),
        carry_by_shape: wp.array(dtype=M316),
        feature: wp.array(dtype=F),
    ):
        """Derivative of ``carry`` by shape: the sum of ``(G_parent - G_k) dJ_k/dbeta`` over k and the joints above.
        Also the pose feature (local rotation minus identity) for pose blendshapes."""
        i = wp.tid()
        p = i / 24
        k = i - p * 24
        base = ((1 - cur[p]) * persons + p) * 24
        if k > 0:
            f = p * 207 + (k - 1) * 9
            for r in range(3):
                for c in range(3):
                    one = F(0.0)
                    if r == c:
                        one = F(1.0)
                    feature[f + 3 * r + c] = local[base + k][r, c] - one
        total = M310()
        m = k
        while m > 0:
            total += (rotation[base + parents[m]] - rotation[base + m]) * joint_shapedirs[m]
            m = parents[m]
        total += (wp.identity(n=3, dtype=F) - rotation[base]) * joint_shapedirs[0]
        carry_by_shape[base + k] = widen(total)

    @wp.kernel(enable_backward=False, module="unique")
    def export(
        persons: int,
        cur: wp.array(dtype=int),
        local: wp.array(dtype=M33),
        beta: wp.array(dtype=V10),
        t: wp.array(dtype=V3),
        out_rotvec: wp.array(dtype=V3),
        out_beta: wp.array(dtype=V10),
        out_t: wp.array(dtype=V3),
    ):
        """Best iterate back to rotation vectors: the only place where a log map meets the user."""
        i = wp.tid()
        p = i / 24
        s = cur[p] * persons + p
        out_rotvec[i] = log_so3(local[s * 24 + i - p * 24])
        if i == p * 24:
            out_beta[p] = beta[s]
            out_t[p] = t[s]

    @wp.kernel(enable_backward=False, module="unique")
    def rotations(groups: wp.array(dtype=int), per_group: int, rotvec: wp.array(dtype=V3), out: wp.array(dtype=M33)):
        """Rotation vectors of the anchors in use to matrices."""
        i = wp.tid()
        if i < groups[0] * per_group:
            out[i] = exp_so3(rotvec[i])

    return SimpleNamespace(
        load=load, retract=retract, kinematics=kinematics, motion_of_shape=motion_of_shape, export=export, rotations=rotations
    )

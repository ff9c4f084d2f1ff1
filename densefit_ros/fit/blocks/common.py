"""Types and functions that every block uses, for one scalar type."""

import functools
from types import SimpleNamespace

import warp as wp


@functools.lru_cache(maxsize=2)
def make(F):
    """Fixed types and rotation functions over the scalar ``F`` (``wp.float32`` or ``wp.float64``)."""
    V3 = wp.types.vector(length=3, dtype=F)
    M33 = wp.types.matrix(shape=(3, 3), dtype=F)

    @wp.func
    def hat(v: V3) -> M33:
        z = F(0.0)
        return M33(z, -v[2], v[1], v[2], z, -v[0], -v[1], v[0], z)

    @wp.func
    def exp_so3(v: V3) -> M33:
        t2 = wp.dot(v, v)
        a = F(1.0) - t2 / F(6.0)
        b = F(0.5) - t2 / F(24.0)
        if t2 > F(1e-8):
            t = wp.sqrt(t2)
            a = wp.sin(t) / t
            b = (F(1.0) - wp.cos(t)) / t2
        k = hat(v)
        return wp.identity(n=3, dtype=F) + a * k + b * (k * k)

    @wp.func
    def log_so3(m: M33) -> V3:
        # Through the quaternion with the largest component as divisor: exact near pi, where people's roots live.
        q = wp.normalize(wp.quat_from_matrix(m))
        s = F(1.0)
        if q[3] < F(0.0):
            s = F(-1.0)
        v = V3(q[0], q[1], q[2]) * s
        n = wp.length(v)
        scale = F(2.0)
        if n > F(1e-6):
            scale = F(2.0) * wp.atan2(n, q[3] * s) / n
        return v * scale

    @wp.func
    def inverse_left_jacobian(v: V3) -> M33:
        # d log(exp(e) exp(v)) / de at e = 0.
        t2 = wp.dot(v, v)
        c = F(1.0 / 12.0)
        if t2 > F(1e-4):
            t = wp.sqrt(t2)
            c = F(1.0) / t2 - (F(1.0) + wp.cos(t)) / (F(2.0) * t * wp.sin(t) + F(1e-12))
        k = hat(v)
        return wp.identity(n=3, dtype=F) - F(0.5) * k + c * (k * k)

    @wp.func
    def renormalise(m: M33) -> M33:
        # Thousands of float32 products drift off the group; Gram-Schmidt on rows after each costs nothing.
        x = wp.normalize(V3(m[0, 0], m[0, 1], m[0, 2]))
        y = V3(m[1, 0], m[1, 1], m[1, 2])
        y = wp.normalize(y - wp.dot(x, y) * x)
        z = wp.cross(x, y)
        return M33(x[0], x[1], x[2], y[0], y[1], y[2], z[0], z[1], z[2])

    return SimpleNamespace(
        F=F,
        V3=V3,
        V4=wp.types.vector(length=4, dtype=F),
        V8=wp.types.vector(length=8, dtype=F),
        V10=wp.types.vector(length=10, dtype=F),
        V16=wp.types.vector(length=16, dtype=F),
        M33=M33,
        M244=wp.types.matrix(shape=(24, 4), dtype=F),
        M310=wp.types.matrix(shape=(3, 10), dtype=F),
        M316=wp.types.matrix(shape=(3, 16), dtype=F),
        hat=hat,
        exp_so3=exp_so3,
        log_so3=log_so3,
        inverse_left_jacobian=inverse_left_jacobian,
        renormalise=renormalise,
    )

"""What image residuals share: the pinhole, the robust weight, pose blendshapes, and shape derivatives in 16 columns."""

import functools
from types import SimpleNamespace

import warp as wp

from ..layout import BEHIND
from . import common


@functools.lru_cache(maxsize=2)
def make(F):
    """Device functions ``pinhole``, ``geman_mcclure``, ``blend_offset`` and ``widen`` for scalar ``F``."""
    T = common.make(F)
    V3, V4, M310, M316 = T.V3, T.V4, T.M310, T.M316
    behind = wp.constant(BEHIND)

    @wp.func
    def pinhole(x: V3, camera: V4, u: F, v: F, sqrt_weight: F, z_min: F):
        """Residual (r0, r1) of a point against the pixel (u, v), its gradients by the point, and 0 where it does not project."""
        r0 = F(0.0)
        r1 = F(0.0)
        a0 = V3()
        a1 = V3()
        seen = F(0.0)
        if x[2] > z_min:
            iz = F(1.0) / x[2]
            tx = x[0] * iz
            ty = x[1] * iz
            r0 = sqrt_weight * (camera[0] * tx + camera[2] - u)
            r1 = sqrt_weight * (camera[1] * ty + camera[3] - v)
            fx = sqrt_weight * camera[0] * iz
            fy = sqrt_weight * camera[1] * iz
            a0 = V3(fx, F(0.0), -fx * tx)
            a1 = V3(F(0.0), fy, -fy * ty)
            seen = F(1.0)
        return r0, r1, a0, a1, seen

    @wp.func
    def geman_mcclure(squared: F, seen: F, now: F, next: F):
        """Costs ``c^2 e / (c^2 + e)`` at two scales, the weight of the rows at the second one, and e as it is reported.

        A point that cannot be projected costs the most it can, so no step gains by pushing points behind the camera.
        """
        e = wp.min(squared, F(behind))
        now2 = now * now
        next2 = next * next
        weight = next2 / (next2 + e)
        cost_now = now2 / (now2 + e) * e
        cost_next = weight * e
        if seen == F(0.0):
            e = F(behind)
            weight = F(0.0)
            cost_now = now2
            cost_next = next2
        return cost_now, cost_next, weight, e

    @wp.func
    def blend_offset(vertex: int, person: int, posedirs: wp.array(dtype=V3), feature: wp.array(dtype=F)) -> V3:
        """Displacement of a rest vertex by the pose blendshapes."""
        x = V3()
        for n in range(207):
            x += posedirs[vertex * 207 + n] * feature[person * 207 + n]
        return x

    @wp.func
    def widen(m: M310) -> M316:
        """Ten columns and six of zeros: one vector register a row."""
        out = M316()
        for r in range(3):
            for c in range(10):
                out[r, c] = m[r, c]
        return out

    return SimpleNamespace(pinhole=pinhole, geman_mcclure=geman_mcclure, blend_offset=blend_offset, widen=widen)

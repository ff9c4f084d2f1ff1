"""What the tracker remembers between frames, and how one measured or missed frame changes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import TrackConfig
from ..types import BodyParams, TrackingState
from . import motion, shape
from .association import track_name


@dataclass(frozen=True, eq=False)
class Track:
    """One person."""

    track_id: str
    params: BodyParams  # batch of one, at stamp_ns
    velocity: motion.Velocity
    shape: shape.ShapeBelief
    appearance: Any  # densefit_ros.render Appearance: this person's texture so far
    joint_covariance: np.ndarray  # (24,3,3) m^2 of the last measurement
    stamp_ns: int
    measured_ns: int
    state: TrackingState
    learnt_ns: int | None = None  # of the last image that the texture was learnt from


@dataclass(frozen=True, eq=False)
class TrackerState:
    """All people, and when the image was last searched."""

    tracks: tuple[Track, ...] = ()
    born: int = 0
    searched_ns: int | None = None
    stamp_ns: int | None = None
    lost: tuple[Track, ...] = ()  # dropped a moment ago: somebody who returns takes the old name back
    T_world_camera: np.ndarray | None = None  # (4,4) m, the last that was known, and when that was
    pose_ns: int = 0


MAX_LOST = 32


def birth(
    state: TrackerState, params: BodyParams, belief: shape.ShapeBelief, appearance: Any, stamp_ns: int
) -> tuple[TrackerState, Track]:
    """A new track with the next name."""
    track = Track(
        track_name(state.born),
        params,
        motion.Velocity.zero(),
        belief,
        appearance,
        np.tile(np.eye(3, dtype=np.float32), (24, 1, 1)),
        stamp_ns,
        stamp_ns,
        TrackingState.DETECTED,
    )
    return dataclasses.replace(state, born=state.born + 1), track


def predicted(track: Track, stamp_ns: int) -> Track:
    """The track moved on to ``stamp_ns`` by its motion model, not yet measured there."""
    dt_s = (stamp_ns - track.stamp_ns) * 1e-9
    return dataclasses.replace(
        track,
        params=motion.predict(track.params, track.velocity, dt_s),
        velocity=motion.faded(track.velocity, dt_s),  # frame by frame the same path as in one step
        stamp_ns=max(stamp_ns, track.stamp_ns),
        state=TrackingState.PREDICTED,
    )


def measured(
    before: Track, params: BodyParams, information: np.ndarray, joint_covariance: np.ndarray, stamp_ns: int, config: TrackConfig
) -> Track:
    """``before`` (at its last stamp) measured again at ``stamp_ns``."""
    dt_s = (stamp_ns - before.stamp_ns) * 1e-9
    fresh = dt_s <= 0  # the frame of birth: no earlier pose to take a velocity from
    return dataclasses.replace(
        before,
        params=params,
        velocity=before.velocity
        if fresh
        else motion.update_velocity(
            before.velocity, before.params, params, dt_s, config.velocity_tau_s, (stamp_ns - before.measured_ns) * 1e-9
        ),
        shape=shape.update(before.shape, params.betas[0], information, 1 / 30 if fresh else dt_s),
        joint_covariance=joint_covariance,
        stamp_ns=stamp_ns,
        measured_ns=stamp_ns,
        state=TrackingState.DETECTED if fresh else TrackingState.TRACKED,
    )


def is_lost(track: Track, stamp_ns: int, config: TrackConfig) -> bool:
    """Not measured for longer than the configured time."""
    return (stamp_ns - track.measured_ns) * 1e-9 > config.lost_after_s


def still_known(lost: Sequence[Track], stamp_ns: int, config: TrackConfig) -> tuple[Track, ...]:
    """Those of the lost who may still be recognised, the newest MAX_LOST of them."""
    window_s = config.lost_after_s + config.reidentify_s
    known = [t for t in lost if config.reidentify_s > 0 and (stamp_ns - t.measured_ns) * 1e-9 <= window_s]
    return tuple(sorted(known, key=lambda t: t.measured_ns)[-MAX_LOST:])


def missing(state: TrackerState, present: Collection[str], stamp_ns: int, config: TrackConfig) -> tuple[Track, ...]:
    """Who was known before the frame of ``stamp_ns``, is none of those ``present`` in it, and may still be recognised."""
    return still_known([t for t in (*state.lost, *state.tracks) if t.track_id not in present], stamp_ns, config)


def returned(newborn: Track, known: Track) -> Track:
    """The same person again: pose of today, name, shape belief and colours of before."""
    return dataclasses.replace(newborn, track_id=known.track_id, shape=known.shape, appearance=known.appearance)

"""Limbs whose directions can be compared between a body and 3D hints: pairs of landmark names, first to second."""

from __future__ import annotations

LIMBS: tuple[tuple[str, str], ...] = (
    ("left_shoulder", "left_elbow"),
    ("left_elbow", "left_wrist"),
    ("right_shoulder", "right_elbow"),
    ("right_elbow", "right_wrist"),
    ("left_hip", "left_knee"),
    ("left_knee", "left_ankle"),
    ("right_hip", "right_knee"),
    ("right_knee", "right_ankle"),
    ("right_shoulder", "left_shoulder"),
    ("right_hip", "left_hip"),
    ("left_hip", "left_shoulder"),
    ("right_hip", "right_shoulder"),
    ("left_heel", "left_foot_index"),
    ("right_heel", "right_foot_index"),
    ("left_heel", "left_big_toe"),
    ("right_heel", "right_big_toe"),
    ("left_ankle", "left_foot"),
    ("right_ankle", "right_foot"),
    ("left_wrist", "left_index"),
    ("right_wrist", "right_index"),
    ("right_ear", "left_ear"),
    ("pelvis", "spine3"),
    ("neck", "head"),
)


def limbs_of(names: tuple[str, ...], placed) -> tuple[list[int], list[int]]:
    """Indices (first, second) of the limbs whose both ends are in the set and placed on the body."""
    index = {n: i for i, n in enumerate(names)}
    pairs = [(index[a], index[b]) for a, b in LIMBS if a in index and b in index]
    pairs = [(a, b) for a, b in pairs if placed[a] and placed[b]]
    return [a for a, _ in pairs], [b for _, b in pairs]

"""How well boxes find people: average precision, recall, precision, and what scores mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..detect.protocol import suppress
from ..synth.scenes import EMPTY, PERSON
from ..track import association
from ..types import Detection

Found = tuple[np.ndarray, np.ndarray]  # boxes (N,4) x, y, w, h; scores (N,), surest first


def suppressed(boxes_xywh: np.ndarray, scores: np.ndarray) -> Found:
    """The finder's own suppression, on any kind of score."""
    kept = suppress([Detection(b, float(s)) for b, s in zip(boxes_xywh, scores)])
    return np.array([d.box_xywh for d in kept], np.float32).reshape(-1, 4), np.array([d.score for d in kept], np.float32)


def match(found: Found, boxes_xywh: np.ndarray, kind: np.ndarray, iou: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Surest first, each to the free person that it overlaps most.

    Returns verdicts (N,) int8 (1 right, 0 wrong, -1 on someone unasked: not counted) and for each person the score of its
    find, -inf when missed.
    """
    boxes, scores = found
    value = association.iou(boxes, boxes_xywh)
    value[:, kind == EMPTY] = 0
    verdict = np.zeros(len(boxes), np.int8)
    got = np.full(len(boxes_xywh), -np.inf, np.float32)
    for i in np.argsort(-scores, kind="stable"):
        free = np.where((kind == PERSON) & np.isneginf(got), value[i], 0)
        if len(free) and free.max() >= iou:
            verdict[i], got[int(free.argmax())] = 1, scores[i]
        elif ((kind != PERSON) & (value[i] > 0.2)).any():
            verdict[i] = -1
    return verdict, got


def right_by_score(score: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """The score from which on half of the finds are right, and how steeply that share rises: a logistic regression.

    score, right (N,).  What detect/network_finder.py makes probabilities of the network's logits with.  NaN where all or none
    are right.
    """
    if not 0 < np.sum(right) < len(right):
        return float("nan"), float("nan")
    from sklearn.linear_model import LogisticRegression

    fit = LogisticRegression(C=1e3).fit(np.reshape(score, (-1, 1)), right)
    slope = float(fit.coef_[0, 0])
    return -float(fit.intercept_[0]) / slope if slope else float("nan"), slope


def detection_metrics(
    found: Sequence[Found], boxes_xywh: Sequence[np.ndarray], kind: Sequence[np.ndarray], iou: float = 0.5
) -> dict[str, float]:
    """Over pictures; ``threshold`` is the score at which F1 is best, recall and precision are meant there; ``half`` and ``slope``
    are of :func:`right_by_score`."""
    verdicts, scores, people, heights = [], [], [], []
    for f, b, k in zip(found, boxes_xywh, kind):
        verdict, got = match(f, b, k, iou)
        verdicts.append(verdict)
        scores.append(f[1])
        people.append(got[k == PERSON])
        heights.append(b[k == PERSON, 3])
    verdict, score = np.concatenate(verdicts), np.concatenate(scores)
    person, height = np.concatenate(people), np.concatenate(heights)
    score, verdict = score[verdict >= 0], verdict[verdict >= 0]
    order = np.argsort(-score, kind="stable")
    right = np.cumsum(verdict[order] == 1)
    recall, precision = right / max(len(person), 1), right / np.arange(1, len(order) + 1)
    if not len(order):
        return {"ap": 0.0, "recall": 0.0, "precision": 0.0, "threshold": 0.0, "score": 1.0}
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    ap = float(np.sum(envelope * np.diff(recall, prepend=0.0)))
    best = int(np.argmax(2 * recall * precision / np.maximum(recall + precision, 1e-9)))
    threshold = float(score[order][best])
    out = {"ap": ap, "recall": float(recall[best]), "precision": float(precision[best]), "threshold": threshold}
    out["half"], out["slope"] = right_by_score(score, verdict == 1)
    for name, low, high in (("small", 0, 48), ("medium", 48, 110), ("large", 110, 1000)):
        own = person[(height >= low) & (height < high)]
        out[f"recall_{name}"] = float((own >= threshold).mean()) if len(own) else 0.0
    return out | {"score": 1.0 - ap}

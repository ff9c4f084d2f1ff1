"""Messages of other programs to boxes, keypoints and estimates: what they mean, what is refused, and anything at all."""

from __future__ import annotations

import functools
from types import SimpleNamespace as Some

import numpy as np
import pytest
from densefit_ros.msg import Keypoints, KeypointsArray, SmplBody, SmplBodyArray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from densefit_ros.body.assets import load_body
from densefit_ros.body.model import rest_joints
from densefit_ros.errors import DensefitError, MessageError
from densefit_ros.ros import external
from densefit_ros.ros.camera_info import calibration
from densefit_ros.ros.diagnostics import Faults, Stats
from densefit_ros.ros.handler import Handler, Job
from densefit_ros.ros.params import RosConfig
from densefit_ros.types import FrameResult

BODY = load_body()
FRAME = Header(frame_id="optical")
NAN = float("nan")
K = [60.0, 0.0, 31.5, 0.0, 60.0, 23.5, 0.0, 0.0, 1.0]
PINHOLE = calibration(CameraInfo(width=64, height=48, k=K), 64, 48, False)
LENSES = {
    "plumb_bob": [-0.2, 0.05, 0.001, -0.002, 0.0],
    "rational_polynomial": [-0.2, 0.05, 0.001, -0.002, 0.0, 0.1, 0.01, 0.0],
    "equidistant": [-0.05, 0.01, 0.0, 0.0],
}


@functools.lru_cache
def lens(model: str):
    return calibration(CameraInfo(width=64, height=48, k=K, distortion_model=model, d=LENSES[model]), 64, 48, False)


def body_message(**changes) -> SmplBody:
    values = dict(confidence=0.8, transl=[0.1, 0.2, 3.0], global_orient=[3.1, 0.0, 0.0], betas=[0.5] + [0.0] * 9)
    return SmplBody(**{**values, **changes})


def estimates(*bodies, topology_id: str = "", frame_id: str = "optical"):
    message = SmplBodyArray(header=Header(frame_id=frame_id), topology_id=topology_id, bodies=list(bodies))
    return external.estimates_of(message, "optical", BODY, 0.3)


def test_estimates():
    got = estimates(body_message(), body_message(confidence=0.0), body_message(confidence=0.5, body_pose=[0.01] * 69))
    assert len(got.params) == 2 and got.source == "external"
    np.testing.assert_allclose(got.confidence, [0.8, 0.5])
    np.testing.assert_allclose(got.params.t_camera_root[0], [0.1, 0.2, 3.0], rtol=1e-6)
    np.testing.assert_allclose(got.params.joint_rotvec[1], 0.01, rtol=1e-6)
    assert got.params.betas[0, 0] == 0.5 and (got.rot_sigma_rad == np.float32(0.3)).all()
    assert len(estimates().params) == 0
    # Placeholders need not be bodies: zeros lie behind the camera.
    for left_out in (SmplBody(), body_message(confidence=0.0, transl=[NAN] * 3)):
        assert len(estimates(left_out, body_message()).params) == 1


def test_betas_of_another_body_are_dropped_and_its_pelvis_stays():
    joints = np.zeros(72, np.float32)
    joints[:3] = 0.3, 0.4, 2.5
    got = estimates(body_message(joints=joints), topology_id="0123456789abcdef")
    assert not got.params.betas.any()
    pelvis = got.params.t_camera_root[0] + rest_joints(BODY, got.params.betas)[0, 0]
    np.testing.assert_allclose(pelvis, [0.3, 0.4, 2.5], atol=1e-6)
    np.testing.assert_array_equal(estimates(body_message(), topology_id=BODY.topology_id).params.betas[0, 0], 0.5)


BAD_BODIES = {
    "transl of body 1 of 1: expected finite": body_message(transl=[0.0, NAN, 3.0]),
    "betas of body 1 of 1: expected finite": body_message(betas=[float("inf")] * 10),
    "global_orient of body 1 of 1": body_message(global_orient=[1e6, 0.0, 0.0]),
    "behind the camera": body_message(transl=[0.0, 0.0, -3.0]),
    "confidence of every estimate is 0": body_message(confidence=0.0),
    "confidence of body 1 of 1": body_message(confidence=NAN),
}


@pytest.mark.parametrize("words", BAD_BODIES)
def test_bad_estimates_are_refused_in_plain_words(words):
    with pytest.raises(MessageError, match=words):
        estimates(BAD_BODIES[words])


def test_frame_and_lengths_are_checked():
    with pytest.raises(MessageError, match="frame 'base_link', the image is in 'optical'.*optical frame"):
        estimates(body_message(), frame_id="base_link")
    # rclpy holds the lengths; a bag or another binding may not.
    short = Some(**{n: getattr(body_message(), n) for n in ("betas", "transl", "global_orient", "joints", "confidence")})
    short.body_pose = np.zeros(63)
    message = Some(header=FRAME, topology_id="", bodies=[short])
    with pytest.raises(MessageError, match="body_pose of body 1 of 1: expected 69 numbers, got 63"):
        external.estimates_of(message, "optical", BODY, 0.3)


def detection(x, y, w, h, class_id="person", score=0.9, distro: str = "humble"):
    centre = Some(position=Some(x=x, y=y), theta=0.0) if distro == "humble" else Some(x=x, y=y, theta=0.0)
    results = [Some(id=class_id, score=score) if distro == "foxy" else Some(hypothesis=Some(class_id=class_id, score=score))]
    return Some(results=results, bbox=Some(center=centre, size_x=w, size_y=h))


def detections(*items, frame_id: str = "optical"):
    return Some(header=Header(frame_id=frame_id), detections=list(items))


@pytest.mark.parametrize("distro", ["humble", "galactic", "foxy"])
def test_boxes(distro):
    """With the message as each of these has it."""
    found = (dict(x=30, y=20, w=10, h=16), dict(x=9, y=9, w=4, h=4, class_id="dog"), dict(x=9, y=9, w=4, h=4, score=0.1))
    items = [detection(**d, distro=distro) for d in found]
    boxes = external.boxes_of(detections(*items), "optical", PINHOLE, ("person", "0"), 0.5)
    np.testing.assert_allclose(boxes, [[25, 12, 10, 16]])
    assert len(external.boxes_of(detections(*items), "optical", PINHOLE, (), 0.0)) == 3
    assert external.boxes_of(detections(frame_id=""), "optical", PINHOLE, (), 0.0).shape == (0, 4)
    for bad, words in ((detection(1, 1, 0, 5), "positive size"), (detection(NAN, 1, 2, 2), "finite")):
        with pytest.raises(MessageError, match=words):
            external.boxes_of(detections(bad), "optical", PINHOLE, (), 0.0)


def yolo(x, y, w, h, name="person", number=0, score=0.9, points=()):
    """One of yolo_msgs/DetectionArray; ``points``: (number, x, y, score), as far as they pass yolo_ros's threshold."""
    data = [Some(id=i, point=Some(x=u, y=v), score=s) for i, u, v, s in points]
    bbox = Some(center=Some(position=Some(x=x, y=y), theta=0.0), size=Some(x=w, y=h))
    return Some(class_name=name, class_id=number, score=score, bbox=bbox, keypoints=Some(data=data))


def yolo_keypoints(*items, classes=("person",), frame_id="optical"):
    message = detections(*items, frame_id=frame_id)
    return external.yolo_keypoints_of(message, "optical", PINHOLE, classes, 0.5, BODY.landmarks["coco17"])


def test_boxes_of_yolo_ros():
    message = detections(yolo(30, 20, 10, 16), yolo(9, 9, 4, 4, "dog", 16), yolo(9, 9, 4, 4, score=0.1))
    for classes in (("person",), ("0",)):  # by name or by number
        np.testing.assert_allclose(external.boxes_of(message, "optical", PINHOLE, classes, 0.5), [[25, 12, 10, 16]])
    assert external.classes_of(message) == [("person", "0"), ("dog", "16")]
    with pytest.raises(MessageError, match="positive size"):
        external.boxes_of(detections(yolo(1, 1, 0, 5)), "optical", PINHOLE, (), 0.0)


def test_keypoints_of_yolo_ros():
    nose, right_ankle = (1, 12.5, 9.5, 0.8), (17, 14.0, 40.0, 0.6)
    dog, doubtful = yolo(9, 9, 4, 4, "dog", 16, points=[nose]), yolo(9, 9, 4, 4, score=0.3, points=[nose])
    got = yolo_keypoints(yolo(1, 1, 2, 2), dog, yolo(13, 25, 8, 40, points=[right_ankle, nose]), doubtful)
    assert got.set_name == "coco17" and got.uv.shape == (1, 17, 2)  # who has no points is left out
    names = BODY.landmarks["coco17"].names
    for name, (_, u, v, score) in (("nose", nose), ("right_ankle", right_ankle)):
        np.testing.assert_allclose(
            [*got.uv[0, names.index(name)], got.confidence[0, names.index(name)]], [u, v, score], rtol=1e-6
        )
    assert (got.confidence > 0).sum() == 2
    assert len(yolo_keypoints().uv) == 0 and len(yolo_keypoints(dog, frame_id="").uv) == 0
    for bad, words in (
        (yolo(1, 1, 2, 2), "pose model"),
        (yolo(1, 1, 2, 2, points=[(18, 1, 1, 1)]), "1 keypoints, up to number 18: expected COCO's 17"),
        (yolo(1, 1, 2, 2, points=[(0, 1, 1, 1)]), "expected COCO's 17"),
        (yolo(1, 1, 2, 2, points=[nose] * 18), "18 keypoints"),
        (yolo(1, 1, 2, 2, points=[(1, NAN, 1, 1)]), "not finite"),
    ):
        with pytest.raises(MessageError, match=words):
            yolo_keypoints(bad)
    with pytest.raises(MessageError, match="frame 'base_link'"):
        yolo_keypoints(frame_id="base_link")


def test_detectors_that_number_their_classes_are_named():
    """Without a word nobody would ever be found, and diagnostics would be content."""
    image = Image(header=Header(frame_id="optical"), height=48, width=64, encoding="rgb8", step=192, data=bytes(48 * 192))
    numbered, people = (
        detections(detection(30, 20, 10, 16, "0"), detection(9, 9, 4, 4, "56")),
        detections(detection(30, 20, 10, 16)),
    )
    ros = RosConfig(fov_deg=70.0, external_slop_s=1.0)
    for messages, expected in (((numbered,) * 3, 1), ((detections(), people, numbered), 0)):
        said, boxes = [], []
        engine = Some(body=BODY, process=lambda f, b, *_, to=boxes: to.append(b) or FrameResult(f.stamp_ns, f.camera, (), {}))
        companion = Some(match=lambda *_, left=list(messages): left.pop(0))
        handler = Handler(
            engine, lambda: ros, lambda *_: None, Faults(said.append, lambda: 0.0), Stats(), False, {"detections": companion}
        )
        for n in range(3):
            image.header.stamp.sec = n + 1
            handler(Job(image, None, 0.0))
        assert len(boxes) == 3 and [line for line in said if "'0'" in line] == said and len(said) == expected, said


def points(uv, confidence=None, set_name="coco17"):
    confidence = np.ones(len(uv)) if confidence is None else confidence
    person = Keypoints(uv=np.asarray(uv, np.float32).reshape(-1), confidence=np.asarray(confidence, np.float32))
    return KeypointsArray(header=FRAME, set_name=set_name, people=[person])


@pytest.mark.parametrize("name, count", [("coco17", 17), ("openpose25", 25), ("mediapipe33", 33)])
def test_keypoints(name, count):
    uv = np.column_stack([np.linspace(1, 60, count), np.linspace(1, 40, count)])
    confidence = np.r_[0.0, np.ones(count - 1) * 2.0]
    uv[0] = np.nan
    got = external.keypoints_of(points(uv, confidence, name), "optical", PINHOLE, BODY.landmarks)
    assert got.set_name == name and got.uv.shape == (1, count, 2)
    np.testing.assert_allclose(got.uv[0, 1:], uv[1:], rtol=1e-6)
    assert got.confidence[0, 0] == 0 and (got.confidence[0, 1:] == 1).all() and np.isfinite(got.uv).all()


def test_bad_keypoints():
    for message, words in (
        (points(np.zeros((17, 2)), set_name="mystery"), "'mystery' is unknown; expected coco17, mediapipe33"),
        (points(np.zeros((16, 2))), "has 32 numbers in uv and 16 in confidence; set 'coco17' needs 34 and 17"),
        (points(np.full((17, 2), np.nan)), "not finite"),
    ):
        with pytest.raises(MessageError, match=words):
            external.keypoints_of(message, "optical", PINHOLE, BODY.landmarks)


def test_skeletons():
    skeleton = Some(header=FRAME, skeleton=[Some(x=0.5, y=(i + 1) / 20, c=0.9 if i else 0.0) for i in range(18)])
    elsewhere = Some(header=Header(frame_id="other camera"), skeleton=[])
    got = external.skeletons_of([elsewhere, skeleton], "optical", PINHOLE, BODY.landmarks["openpose25"])
    names = BODY.landmarks["openpose25"].names
    assert len(got.uv) == 1 and got.confidence[0, names.index("nose")] == 0 and got.confidence[0, names.index("left_heel")] == 0
    # As hri_msgs/Skeleton2D.msg numbers them; OpenPose's own 18 have eyes and ears the other way round.
    standard = "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee"
    standard += " right_ankle left_hip left_knee left_ankle left_eye right_eye left_ear right_ear"
    for i, name in list(enumerate(standard.split()))[1:]:
        np.testing.assert_allclose(got.uv[0, names.index(name)], [32, 48 * (i + 1) / 20], rtol=1e-5)
    with pytest.raises(MessageError, match="3 points, expected 18"):
        external.skeletons_of(
            [Some(header=FRAME, skeleton=[Some(x=0, y=0, c=1)] * 3)], "optical", PINHOLE, BODY.landmarks["openpose25"]
        )


@pytest.mark.parametrize("model", LENSES)
def test_image_positions_are_undistorted_like_the_image(model):
    """A spot painted into the distorted image stands, undistorted, where its keypoint goes; its box goes around it."""
    calib = lens(model)
    uv = np.array([12.5, 9.5])
    image = np.zeros((48, 64), np.uint8)
    image[8:11, 11:14] = 255
    weight = calib.undistort(np.repeat(image[..., None], 3, -1))[..., 0].astype(float)
    centres = np.stack(np.meshgrid(np.arange(64) + 0.5, np.arange(48) + 0.5), -1)
    seen = (centres * weight[..., None]).sum((0, 1)) / weight.sum()
    assert np.linalg.norm(seen - uv) > 0.4, "this lens moves the spot"
    got = external.keypoints_of(points(np.tile(uv, (17, 1))), "optical", calib, BODY.landmarks)
    np.testing.assert_allclose(got.uv[0, 3], seen, atol=0.15)
    (box,) = external.boxes_of(detections(detection(*uv, 6, 6)), "optical", calib, (), 0.0)
    assert (box[:2] < seen).all() and (seen < box[:2] + box[2:]).all()
    np.testing.assert_allclose(box[:2] + box[2:] / 2, seen, atol=0.3)


ANY = st.floats(width=32) | st.sampled_from([0.0, 1.0, 3.0, NAN, float("inf"), -1e30])
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def never_more_than_one_line(function, *args):
    try:
        return function(*args)
    except DensefitError as e:
        assert 10 < len(str(e)) < 400 and "\n" not in str(e)
        return None


@FUZZ
@given(
    st.lists(st.tuples(st.lists(ANY, min_size=10, max_size=10), st.lists(ANY, min_size=3, max_size=3), ANY, ANY), max_size=4),
    st.sampled_from(["optical", "", "base_link", "é\n"]),
    st.sampled_from(["", "other", BODY.topology_id]),
)
def test_fuzzed_estimates(people, frame_id, topology_id):
    bodies = [SmplBody(betas=b, transl=t, confidence=c, body_pose=[p] * 69, joints=[p] * 72) for b, t, c, p in people]
    message = SmplBodyArray(header=Header(frame_id=frame_id), topology_id=topology_id, bodies=bodies)
    got = never_more_than_one_line(external.estimates_of, message, "optical", BODY, 0.3)
    if got is not None:
        assert np.isfinite(got.params.t_camera_root).all() and ((got.confidence > 0) & (got.confidence <= 1)).all()


@FUZZ
@given(st.sampled_from(["coco17", "openpose25", "", "\n"]), st.lists(ANY, max_size=60), st.lists(ANY, max_size=30), st.booleans())
def test_fuzzed_keypoints(name, uv, confidence, exact):
    if exact:
        uv, confidence = (uv * 34 + [1.0] * 34)[:34], (confidence * 17 + [1.0] * 17)[:17]
    message = KeypointsArray(header=FRAME, set_name=name, people=[Keypoints(uv=uv, confidence=confidence)])
    for calib in (PINHOLE, lens("plumb_bob"), lens("equidistant")):
        got = never_more_than_one_line(external.keypoints_of, message, "optical", calib, BODY.landmarks)
        if got is not None:
            assert np.isfinite(got.uv).all() and ((got.confidence >= 0) & (got.confidence <= 1)).all()


@FUZZ
@given(st.lists(st.tuples(ANY, ANY, ANY, ANY, ANY, st.text(max_size=5)), max_size=4))
def test_fuzzed_detections(items):
    message = detections(*(detection(x, y, w, h, name, score) for x, y, w, h, score, name in items))
    for calib in (PINHOLE, lens("rational_polynomial"), lens("equidistant")):
        got = never_more_than_one_line(external.boxes_of, message, "optical", calib, (), 0.0)
        if got is not None:
            assert np.isfinite(got).all() and (got[:, 2:] > 0).all()


POINTS = st.lists(st.tuples(st.integers(-1, 19), ANY, ANY, ANY))


@FUZZ
@given(st.lists(st.tuples(ANY, ANY, ANY, st.text(max_size=5), POINTS), max_size=4))
def test_fuzzed_detections_of_yolo_ros(items):
    message = detections(*(yolo(x, 9, w, 9, name, 0, score, points) for x, w, score, name, points in items))
    for calib in (PINHOLE, lens("rational_polynomial")):
        boxes = never_more_than_one_line(external.boxes_of, message, "optical", calib, (), 0.0)
        assert boxes is None or (np.isfinite(boxes).all() and (boxes[:, 2:] > 0).all())
        marks = BODY.landmarks["coco17"]
        got = never_more_than_one_line(external.yolo_keypoints_of, message, "optical", calib, (), 0.0, marks)
        if got is not None:
            assert np.isfinite(got.uv).all() and ((got.confidence >= 0) & (got.confidence <= 1)).all()


def test_boxes_come_surest_first():
    items = [detection(50 * i + 50, 200, 40, 100, score=s) for i, s in enumerate((0.51, 0.52, 0.99))]
    boxes = external.boxes_of(detections(*items), "optical", PINHOLE, ("person",), 0.5)
    assert boxes[:, 0].tolist() == [130.0, 80.0, 30.0]

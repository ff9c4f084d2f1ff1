"""Boxes, keypoints and first estimates of other processes, over DDS: found by stamp, waited for, refused in plain words."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from densefit_ros.msg import Keypoints, KeypointsArray, SmplBody, SmplBodyArray
from harness import Client, NodeProcess
from lifecycle_msgs.msg import Transition
from other_messages import provide
from rcl_interfaces.msg import Log
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

pytestmark = pytest.mark.ros
BODIES = "/densefit/bodies"
FAST = ("-p", "ros.diagnostics_period_s:=0.2", "-p", "ros.log_period_s:=60.0")


@pytest.fixture(scope="module")
def vision():
    provide("vision_msgs")
    from vision_msgs import msg

    return msg


@pytest.fixture(scope="module")
def yolo():
    provide("yolo_msgs")
    from yolo_msgs import msg

    return msg


@pytest.fixture(scope="module")
def hri():
    provide("hri_msgs")
    from hri_msgs import msg

    return msg


def sources(client: Client) -> list[str]:
    return [b.source for m in client.got[BODIES] for b in m.bodies]


def initial(image, **changes) -> SmplBodyArray:
    values = dict(confidence=0.9, transl=[0.5, 0.0, 4.0], global_orient=[3.14, 0.0, 0.0])
    message = SmplBodyArray(bodies=[SmplBody(**{**values, **changes})])
    message.header = image.header
    return message


@pytest.mark.parametrize("reliability", [ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT])
def test_first_estimates_of_another_regressor(reliability):
    with NodeProcess(*FAST, "-p", "ros.initial:=true", "-p", "ros.external_wait_s:=1.0") as node, Client() as client:
        client.listen(SmplBodyArray, BODIES)
        client.listen(Log, "/rosout")
        publisher = client.node.create_publisher(SmplBodyArray, "/densefit/initial", QoSProfile(depth=5, reliability=reliability))
        client.start()
        waiting = []

        def send_late():
            """A regressor takes its time: the estimate of an image comes two images later."""
            image = client.image()
            client.send(image)
            waiting.append(initial(image))
            if len(waiting) > 2:
                publisher.publish(waiting.pop(0))

        def send(**changes):
            image = client.image()
            publisher.publish(initial(image, **changes))
            client.send(image)

        assert client.until(lambda: sources(client).count("external") > 3, each=send_late)
        body = next(b for m in client.got[BODIES] for b in m.bodies if b.source == "external")
        np.testing.assert_allclose(body.transl, [0.5, 0.0, 4.0])

        # What cannot be used is said once in the log, and always in diagnostics; the node goes on by itself.
        def send_elsewhere():
            image = client.image()
            message = initial(image)
            message.header = Header(stamp=image.header.stamp, frame_id="base_link")
            publisher.publish(message)
            client.send(image)

        for broken, words in (
            (send_elsewhere, "frame 'base_link'"),
            (lambda: send(transl=[float("nan")] * 3), "transl of body 1 of 1: expected finite numbers"),
            (lambda: send(confidence=0.0), "confidence of every estimate is 0"),
        ):
            client.got[BODIES].clear()
            assert client.until(lambda w=words: w in client.fault("initial"), each=broken), words
            assert client.until(lambda: "fake" in sources(client), each=broken), words
        assert len([m for m in client.got["/rosout"] if m.msg.startswith("initial: ")]) == 1
        client.got[BODIES].clear()
        assert client.until(lambda: "external" in sources(client), each=send)
        assert node.stop() == 0, node.log


def test_without_its_estimate_an_image_waits_no_longer_than_asked():
    with NodeProcess(*FAST, "-p", "ros.initial:=true", "-p", "ros.external_wait_s:=0.3") as node, Client() as client:
        client.listen(SmplBodyArray, BODIES)
        client.start()
        assert client.more(BODIES, 1)
        begin = time.monotonic()
        assert client.more(BODIES, 4)
        assert 0.6 < time.monotonic() - begin < 6.0
        assert set(sources(client)) == {"fake"}
        assert client.until(lambda: "no message of initial within 0.001 s" in client.fault("initial"))
        assert node.stop() == 0, node.log


def test_boxes_of_a_detector(vision):
    def array_of(image, *boxes, class_id="person", score=0.9):
        message = vision.Detection2DArray(header=image.header)
        for x, y, w, h in boxes:
            d = vision.Detection2D(header=image.header)
            d.bbox.center.position.x, d.bbox.center.position.y, d.bbox.size_x, d.bbox.size_y = x, y, w, h
            d.results = [vision.ObjectHypothesisWithPose()]
            d.results[0].hypothesis.class_id, d.results[0].hypothesis.score = class_id, score
            message.detections.append(d)
        return message

    with NodeProcess(*FAST, "-p", "ros.detections:=true", "-r", "detections:=/yolo/detections") as node, Client() as client:
        client.listen(SmplBodyArray, BODIES)
        publisher = client.node.create_publisher(vision.Detection2DArray, "/yolo/detections", 5)
        client.start()

        def send(*boxes, **more):
            image = client.image()
            publisher.publish(array_of(image, *boxes, **more))
            client.send(image)

        def boxes_are(expected, each):
            def newest():
                bodies = client.got[BODIES][-1].bodies if client.got[BODIES] else None
                return bodies is not None and [b.source for b in bodies] == ["boxes"] * len(expected)

            client.got[BODIES].clear()
            assert client.until(newest, each=each)
            got = np.reshape([b.box_xywh for b in client.got[BODIES][-1].bodies], (-1, 4))
            np.testing.assert_allclose(got, np.reshape(expected, (-1, 4)))

        two = ((30.0, 20.0, 10.0, 16.0), (50.0, 24.0, 12.0, 20.0))
        boxes_are([(25, 12, 10, 16), (44, 14, 12, 20)], lambda: send(*two))
        boxes_are([], lambda: send(*two, class_id="dog"))
        boxes_are([], lambda: send(*two, score=0.2))
        nan = float("nan")
        assert client.until(lambda: "box 1" in client.fault("detections"), each=lambda: send((nan, 1.0, 2.0, 2.0)))
        assert node.stop() == 0, node.log


def test_keypoints_of_a_detector():
    uv = np.column_stack([np.linspace(10, 50, 17), np.linspace(5, 45, 17)]).astype(np.float32)
    with NodeProcess(*FAST, "-p", "ros.keypoints:=keypoints") as node, Client() as client:
        client.listen(SmplBodyArray, BODIES)
        publisher = client.node.create_publisher(KeypointsArray, "keypoints", 5)
        client.start()

        def send(name="coco17"):
            image = client.image()
            person = Keypoints(uv=uv.reshape(-1), confidence=[1.0] * 17)
            publisher.publish(KeypointsArray(header=image.header, set_name=name, people=[person]))
            client.send(image)

        assert client.until(lambda: "keypoints" in sources(client), each=send)
        body = next(b for m in client.got[BODIES] for b in m.bodies if b.source == "keypoints")
        np.testing.assert_allclose(body.box_xywh, [10, 5, 50, 45])  # the stand-in engine's corners of the points
        assert client.until(lambda: "'mystery' is unknown" in client.fault("keypoints"), each=lambda: send("mystery"))
        assert node.stop() == 0, node.log


@pytest.mark.parametrize("encoding", ["8UC3", "bgr8", "rgb8"])
def test_densepose_maps(encoding):
    with NodeProcess(*FAST, "-p", "ros.densepose:=true") as node, Client() as client:
        client.listen(SmplBodyArray, BODIES)
        publisher = client.node.create_publisher(Image, "densepose", 5)
        client.start()

        def send(part=7, name=encoding, cut=0):
            image = client.image()
            iuv = np.zeros((image.height, image.width, 3), np.uint8)
            iuv[4:8, 4:8] = [part, 100, 200]
            message = Image(
                header=image.header, height=image.height - cut, width=image.width, step=3 * image.width, encoding=name
            )
            message.data = iuv.tobytes()
            publisher.publish(message)
            client.send(image)

        assert client.until(lambda: "densepose [0, 7]" in sources(client), each=send)
        for broken, words in (
            ({"part": 99}, "parts 0 to 24"),
            ({"name": "mono8"}, "no DensePose map"),
            ({"cut": 2}, "the DensePose map is"),
        ):
            assert client.until(lambda w=words: w in client.fault("densepose"), each=lambda b=broken: send(**b)), words
        client.got[BODIES].clear()
        assert client.until(lambda: "densepose [0, 7]" in sources(client), each=send)
        assert node.stop() == 0, node.log


def test_skeletons_of_rep_155(hri):
    with NodeProcess(*FAST, "-p", "ros.keypoints:=hri") as node, Client() as client:
        client.listen(SmplBodyArray, BODIES)
        ids = client.node.create_publisher(hri.IdsList, "/humans/bodies/tracked", 5)
        skeletons = {
            i: client.node.create_publisher(hri.Skeleton2D, f"/humans/bodies/{i}/skeleton2d", 5) for i in ("abcde", "b2")
        }
        client.start()

        def send(*present):
            image = client.image()
            ids.publish(hri.IdsList(header=image.header, ids=[*present, "no/such topic", "b" * 240]))
            for i in present:
                message = skeletons[i].msg_type(header=image.header)
                for p in message.skeleton:
                    p.x, p.y, p.c = 0.5, 0.25 if i == "abcde" else 0.75, 0.9
                skeletons[i].publish(message)
            client.send(image)

        def people():
            return [b for b in client.got[BODIES][-1].bodies if b.source == "keypoints"] if client.got[BODIES] else []

        assert client.until(lambda: len(people()) == 2, each=lambda: send("abcde", "b2"))
        assert sorted(round(float(b.box_xywh[3])) for b in people()) == [12, 36]
        assert client.until(lambda: len(people()) == 1, each=lambda: send("b2"))
        assert client.until(lambda: "no topic may have" in client.fault("keypoints"), each=lambda: send("b2"))
        assert node.stop() == 0, node.log


@pytest.mark.parametrize(
    ("parameters", "source", "box"),
    [
        (("ros.keypoints:=yolo",), "keypoints", [26, 13, 34, 27]),  # the stand-in engine's corners of the points
        (("ros.detections:=true", "ros.detections_type:=yolo_msgs"), "boxes", [25, 12, 10, 16]),
    ],
)
def test_detections_of_yolo_ros(yolo, parameters, source, box):
    def array_of(image, *uv):
        message = yolo.DetectionArray(header=image.header)
        d = yolo.Detection(class_id=0, class_name="person", score=0.9)
        d.bbox.center.position.x, d.bbox.center.position.y, d.bbox.size.x, d.bbox.size.y = 30.0, 20.0, 10.0, 16.0
        d.keypoints.data = [yolo.KeyPoint2D(id=i + 1, point=yolo.Point2D(x=x, y=y), score=0.9) for i, (x, y) in enumerate(uv)]
        message.detections.append(d)
        return message

    asked = [word for p in parameters for word in ("-p", p)]
    with NodeProcess(*FAST, *asked, "-r", "detections:=/yolo/detections") as node, Client() as client:
        client.listen(SmplBodyArray, BODIES)
        publisher = client.node.create_publisher(yolo.DetectionArray, "/yolo/detections", 5)
        client.start()

        def send(*uv):
            image = client.image()
            publisher.publish(array_of(image, *uv))
            client.send(image)

        points = [(26.0 + i / 2, 13.0 + 7 * i / 8) for i in range(17)]
        assert client.until(lambda: source in sources(client), each=lambda: send(*points))
        body = next(b for m in client.got[BODIES] for b in m.bodies if b.source == source)
        np.testing.assert_allclose(body.box_xywh, box)
        if source == "keypoints":  # of a model without them diagnostics say so, and the image is answered all the same
            client.got[BODIES].clear()
            assert client.until(lambda: "with a pose model" in client.fault("keypoints"), each=send)
            assert client.until(lambda: "fake" in sources(client), each=send)
        assert node.stop() == 0, node.log


def test_a_node_without_a_regressor_and_without_estimates_is_refused():
    with NodeProcess("-p", "regress.backend:=external") as node, Client() as client:
        assert not client.change_state(Transition.TRANSITION_CONFIGURE)
        node.stop()
        assert "regress.backend external needs somebody else's estimates" in node.log


@pytest.mark.parametrize(
    "package, parameter",
    [("vision_msgs", "ros.detections:=true"), ("hri_msgs", "ros.keypoints:=hri"), ("yolo_msgs", "ros.keypoints:=yolo")],
)
def test_a_package_that_is_asked_for_and_not_installed(package, parameter, tmp_path):
    (tmp_path / f"{package}.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join(p for p in (str(tmp_path), os.environ.get("PYTHONPATH", "")) if p)
    with NodeProcess("-p", parameter, env={"PYTHONPATH": path}) as node, Client() as client:
        assert not client.change_state(Transition.TRANSITION_CONFIGURE)
        assert client.state() == "unconfigured"
        node.stop()
        assert f"needs the package {package}" in node.log and "not installed" in node.log

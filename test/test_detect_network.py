"""The built-in person finder: maps to boxes, the network behind runtimes, its loss and its metrics."""

from __future__ import annotations

import types

import numpy as np
import pytest

from densefit_ros.body.assets import load_body
from densefit_ros.detect.contract import COLUMNS, FINDER_CONTRACT, HEIGHT_PX, PAD_GREY, ROWS, STRIDE_PX, WIDTH_PX
from densefit_ros.detect.factory import AUTO_ORDER, make_detector
from densefit_ros.detect.network_finder import NetworkDetector, logit_of, score_of
from densefit_ros.detect.peaks import decode_peaks, letterbox
from densefit_ros.errors import AssetError, ShapeError


def maps(*boxes_and_logits):
    """Network outputs that show the given window boxes."""
    heat, box = np.full((1, ROWS, COLUMNS), -9.0, np.float32), np.zeros((4, ROWS, COLUMNS), np.float32)
    for (x, y, w, h), logit in boxes_and_logits:
        u, v = (x + w / 2) / STRIDE_PX, (y + h / 2) / STRIDE_PX
        c, r = int(u), int(v)
        heat[0, r, c] = logit
        box[:, r, c] = u - c - 0.5, v - r - 0.5, np.log(w / STRIDE_PX), np.log(h / STRIDE_PX)
    return heat, box


class FakeRuntime:
    """Shows a person wherever the picture is red."""

    name, path = "fake", "fake.onnx"
    inputs, outputs = FINDER_CONTRACT.inputs, FINDER_CONTRACT.outputs

    def __init__(self, logit=4.0):
        self.logit, self.calls = logit, 0

    def __call__(self, inputs):
        self.calls += 1
        image = inputs["image"]
        assert image.shape == (1, HEIGHT_PX, WIDTH_PX, 3) and image.dtype == np.uint8
        red = (image[0, :, :, 0] > 200) & (image[0, :, :, 1] < 60)
        found = []
        if red.any():
            v, u = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
            found = [((u[0], v[0], u[-1] + 1 - u[0], v[-1] + 1 - v[0]), self.logit)]
        heat, box = maps(*found)
        return {"heat": heat[None], "box": box[None]}


@pytest.mark.parametrize("shape", [(480, 640), (720, 1280), (640, 480), (192, 256), (97, 131)])
def test_letterbox_maps_pixels_as_it_says(shape):
    picture = np.zeros((*shape, 3), np.uint8)
    y, x = shape[0] // 3, shape[1] // 4
    h, w = shape[0] // 4, shape[1] // 5
    picture[y : y + h, x : x + w] = 255
    window, scale, corner = letterbox(picture)
    assert window.shape == (HEIGHT_PX, WIDTH_PX, 3)
    v, u = np.nonzero(window[:, :, 0] > 200)
    got = np.array([u.min(), v.min(), u.max() + 1, v.max() + 1])
    expected = scale * np.array([x, y, x + w, y + h]) + np.tile(corner, 2)
    np.testing.assert_allclose(got, expected, atol=1.6)
    if shape[1] * HEIGHT_PX > shape[0] * WIDTH_PX:
        assert (window[0] == PAD_GREY).all() and (window[-1] == PAD_GREY).all()


def test_peaks_are_read_where_they_are():
    truth = np.array([[20.5, 30, 40, 100], [150, 60, 80, 90.5]], np.float32)
    boxes, logits = decode_peaks(*maps((truth[0], 1.0), (truth[1], 3.0)), min_logit=-2.0)
    np.testing.assert_allclose(boxes, truth[::-1], atol=1e-3)
    np.testing.assert_allclose(logits, [3.0, 1.0])
    assert len(decode_peaks(*maps((truth[0], 1.0)), min_logit=2.0)[0]) == 0


def test_a_weaker_neighbour_is_no_peak():
    heat, box = maps(((96, 56, 24, 64), 2.0))
    r, c = np.unravel_index(heat[0].argmax(), heat[0].shape)
    heat[0, r, c + 1] = 1.9
    assert len(decode_peaks(heat, box, 0.0)[0]) == 1


@pytest.mark.parametrize("shape", [(480, 640), (540, 960), (800, 450)])
def test_boxes_are_full_image_pixels(shape):
    picture = np.zeros((*shape, 3), np.uint8)
    truth = np.array([0.3 * shape[1], 0.25 * shape[0], 0.2 * shape[1], 0.5 * shape[0]]).round()
    x, y, w, h = truth.astype(int)
    picture[y : y + h, x : x + w, 0] = 255
    runtime = FakeRuntime()
    (found,) = NetworkDetector(runtime).detect(picture)
    np.testing.assert_allclose(found.box_xywh, truth, atol=0.02 * max(shape))
    assert runtime.calls == 1 and 0.5 < found.score <= 1


def test_small_people_are_searched_in_parts_only_when_needed():
    picture = np.zeros((480, 640, 3), np.uint8)
    picture[40:90, 60:80, 0] = 255
    runtime = FakeRuntime()
    detector = NetworkDetector(runtime)
    assert len(detector.detect(picture, enough=1)) == 1 and runtime.calls == 1
    assert len(detector.detect(picture, enough=2)) == 1 and runtime.calls == 6
    assert NetworkDetector(FakeRuntime(logit=-9.5)).detect(picture) == []


def test_halves_of_people_at_the_border_of_a_part_are_left_out():
    picture = np.zeros((480, 640, 3), np.uint8)
    picture[:, 300:420, 0] = 255  # crosses every part's border
    detector = NetworkDetector(FakeRuntime())
    found = detector.detect(picture, enough=9)
    assert len(found) == 1 and found[0].box_xywh[3] > 450


def test_scores_are_in_order_and_invert():
    assert 0 <= score_of(-1e6) < score_of(-1.0) < score_of(3.0) <= 1 and score_of(1e6) <= 1
    for score in (0.05, 0.5, 0.9):
        assert abs(score_of(logit_of(score)) - score) < 1e-9


def test_another_network_and_another_image_are_errors():
    class Other(FakeRuntime):
        outputs = {"flow": FINDER_CONTRACT.outputs["heat"]}

    with pytest.raises(AssetError, match="finder"):
        NetworkDetector(Other())
    with pytest.raises(ShapeError, match="uint8 image"):
        NetworkDetector(FakeRuntime()).detect(np.zeros((480, 640), np.uint8))


def test_a_named_file_that_is_missing_is_an_error_also_for_auto(tmp_path):
    assert AUTO_ORDER[-1] == "hog"
    for backend in ("network", "auto"):
        with pytest.raises(AssetError, match=r"nowhere\.onnx"):
            make_detector(backend, onnx=tmp_path / "nowhere.onnx", device="cpu")


def test_the_shipped_network_finds_the_person_of_the_demo_and_nobody_in_stones():
    from skimage import data

    from densefit_ros.body.assets import load_body
    from densefit_ros.synth.sequence import demo_sequence

    detector = make_detector("network", device="cpu")
    assert detector.name.startswith("network (") and ":cpu" in detector.name
    sequence = demo_sequence(load_body())
    found_in = 0
    for i in range(20, 300, 40):
        shot = sequence.render(i)
        v, u = np.nonzero(shot.visible_face >= 0)
        truth = np.array([u.min(), v.min(), u.max() + 1, v.max() + 1])
        found = [d.box_xywh for d in detector.detect(shot.rgb) if d.score >= 0.5]
        for x, y, w, h in found[:1]:
            common = np.prod(np.clip(np.minimum([x + w, y + h], truth[2:]) - np.maximum([x, y], truth[:2]), 0, None))
            found_in += common / (w * h + np.prod(truth[2:] - truth[:2]) - common) > 0.5
    assert found_in >= 3, f"surest box right in {found_in} of 7 frames"
    for picture in (data.gravel(), data.brick(), data.grass()):
        # Less sure finds are the regressor's to judge (detect.sure_score).
        assert not [d for d in detector.detect(np.repeat(picture[:, :, None], 3, -1)) if d.score >= 0.8]


# -- network, loss, metrics: torch ------------------------------------------------------------------------------------


def test_network_meets_its_contract_and_every_runtime_agrees(tmp_path):
    torch = pytest.importorskip("torch")
    from densefit_ros.detect.finder_network import FinderNet
    from densefit_ros.runtime.factory import make_runtime
    from densefit_ros.train.export import export

    torch.manual_seed(0)
    net = FinderNet().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training: no two parameters are equal
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.bias, std=0.2)
    assert 2e5 < sum(p.numel() for p in net.parameters()) < 5e5
    path = tmp_path / "finder.onnx"
    export(net, "finder", path)
    image = np.random.default_rng(0).integers(0, 256, (2, HEIGHT_PX, WIDTH_PX, 3)).astype(np.uint8)
    with torch.inference_mode():
        heat, box = net(torch.from_numpy(image))
    for backend in ("onnxruntime", "torch"):
        runtime = make_runtime(path, backend, "cpu")
        NetworkDetector(runtime)
        got = runtime({"image": image})
        np.testing.assert_allclose(got["heat"], heat.numpy(), atol=2e-3)
        np.testing.assert_allclose(got["box"], box.numpy(), atol=2e-3)


def test_the_loss_is_least_where_the_decoding_is_right():
    torch = pytest.importorskip("torch")
    from densefit_ros.train.finder import finder_loss

    truth = torch.tensor([[[60.0, 40, 50, 120], [180, 70, 30, 60], [0, 0, 0, 0], [0, 0, 0, 0]]])
    kind = torch.tensor([[1, 1, 0, 0]], dtype=torch.int8)
    heat = torch.full((1, 1, ROWS, COLUMNS), -3.0, requires_grad=True)
    box = torch.zeros((1, 4, ROWS, COLUMNS), requires_grad=True)
    optimizer = torch.optim.Adam([heat, box], lr=0.1)
    for _ in range(150):
        loss, _ = finder_loss(heat, box, truth, kind)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    boxes, logits = decode_peaks(heat.detach().numpy()[0], box.detach().numpy()[0], 0.0)
    assert len(boxes) == 2 and loss < 0.1
    np.testing.assert_allclose(boxes[np.argsort(boxes[:, 0])], truth[0, :2].numpy(), atol=2.0)


def test_unasked_people_are_neither_demanded_nor_forbidden():
    torch = pytest.importorskip("torch")
    from densefit_ros.train.finder import finder_loss

    truth = torch.tensor([[[60.0, 40, 50, 120]]])
    heat = torch.zeros((1, 1, ROWS, COLUMNS), requires_grad=True)
    finder_loss(heat, torch.zeros((1, 4, ROWS, COLUMNS)), truth, torch.tensor([[2]], dtype=torch.int8))[0].backward()
    inside = heat.grad[0, 0, 6:19, 8:13]
    assert not inside.any() and (heat.grad[0, 0, :4] > 0).all()


def test_every_cell_of_a_person_learns_their_box():
    torch = pytest.importorskip("torch")
    from densefit_ros.train.finder import guide_loss

    truth, kind = torch.tensor([[[64.0, 40, 48, 120]]]), torch.tensor([[1]], dtype=torch.int8)
    owner = torch.full((1, ROWS, COLUMNS), -1)
    owner[:, 5:20, 8:14] = 0
    u = torch.arange(COLUMNS).expand(ROWS, -1) + 0.5
    v = torch.arange(ROWS)[:, None].expand(-1, COLUMNS) + 0.5
    right = torch.stack([11 - u, 12.5 - v, torch.full_like(u, np.log(6)), torch.full_like(u, np.log(15))])[None]
    seen, spread = guide_loss(20.0 * (2 * (owner >= 0).float() - 1)[:, None], right, truth, kind, owner)
    assert seen < 1e-6 and spread < 1e-5
    right[:, 0, 6, 9] += 3
    assert guide_loss(torch.zeros(1, 1, ROWS, COLUMNS), right, truth, kind, owner)[1] > 1e-3
    assert guide_loss(torch.zeros(1, 1, ROWS, COLUMNS), right, truth, kind * 2, owner)[1] == 0


def test_augmentation_keeps_boxes_on_their_people(monkeypatch):
    pytest.importorskip("torch")
    from densefit_ros.train.finder import FinderSource

    image = np.zeros((3, HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    image[:, 60:140, 100:150] = 255
    boxes = np.zeros((3, 4, 4), np.float32)
    boxes[:, 0] = 100, 60, 50, 80
    kind = np.zeros((3, 4), np.int8)
    kind[:, 0] = 1
    owner = np.full((3, HEIGHT_PX, WIDTH_PX), -1, np.int8)
    owner[:, 60:140, 100:150] = 0
    source, batch = FinderSource.__new__(FinderSource), {"image": image, "fine": image.repeat(2, 1).repeat(2, 2)}
    monkeypatch.setattr("densefit_ros.train.finder._PIECES_SHARE", 0.0)  # white tiles elsewhere would be measured with it
    for seed in range(5):
        out = source.augment({**batch, "boxes": boxes, "kind": kind, "owner": owner}, np.random.default_rng(seed))
        for i in range(3):
            seen = out["image"][i].astype(int).sum(-1)
            v, u = np.nonzero(seen > 0.75 * seen[seen.shape[0] // 2].max())
            x, y, w, h = out["boxes"][i, 0]
            np.testing.assert_allclose([u.min(), v.min(), u.max() + 1, v.max() + 1], [x, y, x + w, y + h], atol=1.5)
            v, u = np.nonzero(out["owner"][i] == 0)
            np.testing.assert_allclose([u.min(), v.min(), u.max() + 1, v.max() + 1], [x, y, x + w, y + h], atol=1.5)
            assert out["kind"][i, 0] == 1 and not out["boxes"][i, 1:].any()


def test_augmentation_leaves_pictures_as_sharp_as_those_that_finders_see(monkeypatch):
    pytest.importorskip("torch")
    import cv2

    from densefit_ros.train import finder

    fine = np.random.default_rng(0).integers(0, 256, (1, 2 * HEIGHT_PX, 2 * WIDTH_PX, 3), np.uint8)
    image = cv2.resize(fine[0], (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_AREA)[None]
    nobody = {"boxes": np.zeros((1, 4, 4), np.float32), "kind": np.zeros((1, 4), np.int8)}
    batch = {"image": image, "fine": fine, **nobody, "owner": np.full((1, HEIGHT_PX, WIDTH_PX), -1, np.int8)}
    monkeypatch.setattr(finder, "_PIECES_SHARE", 0.0)
    monkeypatch.setattr(finder, "recolour", lambda images, rng: images)
    source = finder.FinderSource.__new__(finder.FinderSource)

    def moved(by_px: float) -> np.ndarray:
        affine = np.array([[1.0, 0, by_px], [0, 1, 0]])
        monkeypatch.setattr(finder, "_zoom", lambda rng: affine)
        return source.augment(batch, np.random.default_rng(0))["image"][0]

    np.testing.assert_array_equal(moved(0.0), image[0])
    blurred = cv2.warpAffine(image[0], np.array([[1.0, 0, 0.5], [0, 1, 0]]), (WIDTH_PX, HEIGHT_PX))
    detail = [float(cv2.Laplacian(i[:, 1:].astype(np.float32), -1).std()) for i in (image[0], moved(0.5), blurred)]
    assert detail[1] > 0.97 * detail[0] and detail[2] < 0.8 * detail[0]


def test_pieces_of_people_land_where_nobody_is():
    pytest.importorskip("torch")
    from densefit_ros.train.finder import paste_pieces

    image, other = np.zeros((2, HEIGHT_PX, WIDTH_PX, 3), np.uint8)
    other[20:80, 30:66] = np.arange(36)[None, :, None] + 100
    owner = np.full((HEIGHT_PX, WIDTH_PX), -1, np.int8)
    owner[:, 128:] = 0
    boxes = np.float32([[30, 20, 36, 60], [0, 0, 0, 0]])
    for seed in range(8):
        paste_pieces(np.random.default_rng(seed), image, owner, other, boxes)
    assert image[owner < 0].any() and not image[owner >= 0].any()
    before = image.copy()
    paste_pieces(np.random.default_rng(0), image, owner, other, boxes[1:])
    np.testing.assert_array_equal(image, before)


def test_metrics_of_known_finds():
    pytest.importorskip("torch")
    from densefit_ros.train.finder_metrics import detection_metrics, match

    people = np.array([[10, 10, 20, 40], [60, 10, 20, 40], [100, 10, 20, 40], [0, 0, 0, 0]], np.float32)
    kind = np.array([1, 1, 2, 0], np.int8)
    found = (people[[0, 0, 2]] + np.float32([[0, 0, 0, 0], [60, 60, 0, 0], [1, 0, 0, 0]]), np.float32([2.0, 1.0, 0.5]))
    verdict, got = match(found, people, kind)
    np.testing.assert_array_equal(verdict, [1, 0, -1])
    np.testing.assert_array_equal(got[:2], [2.0, -np.inf])
    metrics = detection_metrics([found], [people], [kind])
    assert metrics["recall"] == 0.5 and metrics["precision"] == 1.0 and metrics["threshold"] == 2.0
    assert metrics["ap"] == 0.5 and metrics["score"] == 0.5


def test_scores_are_read_as_shares_of_right_finds():
    from densefit_ros.train.finder_metrics import right_by_score

    rng = np.random.default_rng(4)
    score = rng.uniform(-4, 3, 4000)
    right = rng.random(4000) < 1 / (1 + np.exp(-2.5 * (score + 0.4)))
    half, slope = right_by_score(score, right)
    assert type(half) is type(slope) is float  # checkpoints hold no NumPy
    assert half == pytest.approx(-0.4, abs=0.08) and slope == pytest.approx(2.5, rel=0.1)
    half, slope = right_by_score(score, score > 0.3)  # nothing between right and wrong
    assert half == pytest.approx(0.3, abs=0.1) and slope > 10
    assert np.isnan(right_by_score(score, np.ones(4000))).all()


def test_finders_are_compared_on_nobody_whom_validation_has_looked_at(monkeypatch):
    pytest.importorskip("torch")
    from densefit_ros.train import finder_eval
    from densefit_ros.train.sources import EVALUATION_SUBJECT

    engines = []

    def scenes(rng, engine, *size):
        engines.append(engine)
        return types.SimpleNamespace(rgb=[0], boxes_xywh=[0], kind=[0])

    monkeypatch.setattr(finder_eval, "make_scenes", scenes)
    list(finder_eval.heldout_scenes(load_body(), 1))
    assert engines[0].first_subject == EVALUATION_SUBJECT

"""What of a dataset is missing, damaged or hostile: one error that names the file."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
from test_eval_datasets import FRAMES, _dump, _emdb, _regressor, _rich, _threedpw

from densefit_ros.errors import AssetError, ShapeError
from densefit_ros.eval.emdb import Emdb
from densefit_ros.eval.rich import Rich
from densefit_ros.eval.sample import SMPL24, h36m14
from densefit_ros.eval.threedpw import ThreeDPW


def test_missing_parts_are_named(tmp_path):
    for loader, word in ((ThreeDPW, "sequenceFiles"), (Emdb, "_data.pkl"), (Rich, "bodies")):
        with pytest.raises(AssetError, match=word):
            loader(tmp_path)
    root, bodies = _threedpw(tmp_path)
    (bodies / "SMPL_MALE.npz").unlink()
    with pytest.raises(AssetError, match="SMPL_MALE"):
        next(iter(ThreeDPW(root, bodies)))
    (bodies / "J_regressor_h36m.npy").unlink()
    with pytest.raises(AssetError, match="J_regressor_h36m"):
        ThreeDPW(root, bodies)


def test_a_missing_picture_is_named_when_it_is_asked_for(tmp_path):
    root, bodies = _threedpw(tmp_path)
    (root / "imageFiles" / "street_00" / "image_00000.jpg").unlink()
    sample = next(iter(ThreeDPW(root, bodies)))
    with pytest.raises(AssetError, match="image_00000.jpg"):
        sample.image()


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"poses": [np.zeros((FRAMES, 66))] * 2}, "'poses' of shape"),
        ({"cam_poses": np.full((FRAMES, 4, 4), np.nan)}, "not finite"),
        ({"genders": ["m"]}, "do not fit together"),
        ({"genders": ["m", "robot"]}, "robot"),
        ({"trans": [np.zeros((FRAMES - 1, 3))] * 2}, "'trans'"),
        ({"cam_intrinsics": "none"}, "cam_intrinsics"),
    ],
)
def test_damaged_3dpw_files_are_named(tmp_path, changes, word):
    root, bodies = _threedpw(tmp_path, **changes)
    with pytest.raises(AssetError, match=word) as e:
        list(ThreeDPW(root, bodies))
    assert "street_00.pkl" in str(e.value)


@pytest.mark.parametrize(
    "changes, word",
    [({"camera": 3}, "dictionaries"), ({"smpl": {}}, "poses_root"), ({"good_frames_mask": np.ones(2)}, "good_frames_mask")],
)
def test_damaged_emdb_files_are_named(tmp_path, changes, word):
    with pytest.raises(AssetError, match=word):
        Emdb(*_emdb(tmp_path, **changes))


def test_damaged_rich_files_are_named(tmp_path):
    root, models = _rich(tmp_path)
    calibration = root / "scan_calibration" / "Gym" / "calibration" / "000.xml"
    good = calibration.read_text()
    for text, word in ((good.replace("Intrinsics", "Other"), "Intrinsics"), ("<html>", "000.xml"), (None, "missing")):
        calibration.unlink() if text is None else calibration.write_text(text)
        with pytest.raises(AssetError, match=word):
            list(Rich(root, models))
    calibration.write_text(good)
    _dump(root / "bodies" / "test" / "Gym_003_squat" / "00007" / "003.pkl", {"global_orient": np.zeros(3)})
    with pytest.raises(AssetError, match="003.pkl.*body_pose"):
        list(Rich(root, models))


def test_cropped_rich_pictures_are_refused(tmp_path):
    with pytest.raises(AssetError, match="cropped"):
        list(Rich(*_rich(tmp_path, size=(400, 376))))


def test_people_whom_a_camera_does_not_see_are_left_out_by_name(tmp_path):
    for transl in ([[0.0, 0, 60.0]], [[9.0, 0, 0]]):  # behind the camera, beside its picture
        with pytest.raises(AssetError, match="003/00007: is not in the picture of camera 0"):
            list(Rich(*_rich(tmp_path, transl=np.array(transl))))


class _Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_hostile_pickles_run_nothing(tmp_path):
    mark = tmp_path / "ran"
    root, bodies = _threedpw(tmp_path)
    target = root / "sequenceFiles" / "test" / "street_00.pkl"
    target.write_bytes(pickle.dumps({"poses": _Hostile(f"touch {mark}")}))
    with pytest.raises(AssetError, match="street_00.pkl"):
        ThreeDPW(root, bodies)
    for garbage in (b"", b"\x80\x02", os.urandom(200), json.dumps({"poses": 1}).encode()):
        target.write_bytes(garbage)
        with pytest.raises(AssetError, match="street_00.pkl"):
            ThreeDPW(root, bodies)
    assert not mark.exists()


def test_protocols_refuse_another_topology():
    protocol = h36m14(_regressor())
    with pytest.raises(ShapeError, match="body.model_path"):
        protocol.points(np.zeros((10, 3)), np.zeros((24, 3)))
    with pytest.raises(ShapeError, match="17"):
        h36m14(np.zeros((14, 6890)))
    joints = np.random.default_rng(0).normal(size=(24, 3))
    assert SMPL24.points(np.zeros((10, 3)), joints)[1] == pytest.approx(joints[0])

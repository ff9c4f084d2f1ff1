"""What the names of topics say, and where the files of the package are looked for."""

from __future__ import annotations

import pytest

from densefit_ros.errors import AssetError
from densefit_ros.ros import installed
from densefit_ros.ros.topics import camera_info_beside, is_rectified_by_name


@pytest.mark.parametrize(
    "image, info, rectified",
    [
        ("/cam/color/image_raw", "/cam/color/camera_info", False),
        ("/cam/color/image_raw/compressed", "/cam/color/camera_info", False),
        ("/rectangle/image_rect_color", "/rectangle/camera_info", True),
        ("/rect/image", "/rect/camera_info", False),
        ("/image", "/camera_info", False),
        ("left/image_rect/compressed", "left/camera_info", True),
        ("left/image_rectified", "left/camera_info", True),
        ("left/image_unrectified", "left/camera_info", False),
        ("left/image_direct", "left/camera_info", False),
        ("image_raw", "camera_info", False),
    ],
)
def test_names_of_image_topics(image, info, rectified):
    assert camera_info_beside(image) == info and is_rectified_by_name(image) == rectified


def test_files_are_found_in_the_checkout_and_then_under_share(tmp_path, monkeypatch):
    assert installed.share("config/fastdds_image.xml").is_file()
    monkeypatch.setattr(installed, "__file__", str(tmp_path / "lib" / "densefit_ros" / "ros" / "installed.py"))
    monkeypatch.setattr(installed.sys, "prefix", str(tmp_path / "none"))
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'other'}:{tmp_path / 'prefix'}")
    with pytest.raises(AssetError, match="msg/SmplBody.msg is not found .*installed"):
        installed.share("msg/SmplBody.msg")
    folder = tmp_path / "prefix" / "share" / "densefit_ros"
    (folder / "msg").mkdir(parents=True)
    (folder / "msg" / "SmplBody.msg").write_text("")
    assert installed.share("msg/SmplBody.msg") == folder / "msg" / "SmplBody.msg"

"""What the names of topics say, and where the files of the package are looked for."""

from __future__ import annotations

import sys

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


def put_code_in(folder, monkeypatch, **prefixes):
    """The package as if it were installed under ``folder``, and each place where files are looked for as in ``prefixes``."""
    place = {n: str(folder.parent / "nothing" / n) for n in ("ament", "python", "user", "data")} | prefixes
    monkeypatch.setattr(installed, "__file__", str(folder / "densefit_ros" / "ros" / "installed.py"))
    monkeypatch.setattr(installed.sys, "prefix", place["python"])
    monkeypatch.setattr(installed.site, "getuserbase", lambda: place["user"])
    monkeypatch.setattr(installed.sysconfig, "get_path", {"data": place["data"]}.__getitem__)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{folder.parent / 'other'}:{place['ament']}")


def definition(prefix):
    file = prefix / "share" / "densefit_ros" / "msg" / "SmplBody.msg"
    file.parent.mkdir(parents=True)
    file.write_text("")
    return file


@pytest.mark.parametrize("where", ["ament", "python", "user", "data"])
def test_files_are_found_in_the_checkout_and_then_under_share(where, tmp_path, monkeypatch):
    """user: pip install --user; data: pip install into Debian's Python, whose files are not under its prefix."""
    assert installed.share("config/fastdds_image.xml").is_file()
    prefix = tmp_path / "prefix"
    put_code_in(tmp_path / "code", monkeypatch, **{where: str(prefix)})
    with pytest.raises(AssetError, match=f"msg/SmplBody.msg is not found in .*{prefix}.*: is the package installed"):
        installed.share("msg/SmplBody.msg")
    file = definition(prefix)
    assert installed.share("msg/SmplBody.msg") == file


def test_files_that_were_installed_with_the_code_come_first(tmp_path, monkeypatch):
    """As with pip install --prefix, and where an older version lies elsewhere."""
    put_code_in(tmp_path / "own" / "lib" / "python3.12" / "site-packages", monkeypatch, ament=str(tmp_path / "ros"))
    file = definition(tmp_path / "ros")
    assert installed.share("msg/SmplBody.msg") == file
    file = definition(tmp_path / "own")
    assert installed.share("msg/SmplBody.msg") == file


def test_what_to_do_without_a_package_that_pip_brings():
    said = installed.hint(ModuleNotFoundError("No module named 'warp'", name="warp"))
    assert f"needs warp, which is not installed for {sys.executable}: pip install warp-lang, or activate" in said
    for other in (
        ModuleNotFoundError(name="warp.of_another_version"),
        ModuleNotFoundError(name="rclpy"),
        ImportError(name="warp"),
    ):
        assert installed.hint(other) == ""

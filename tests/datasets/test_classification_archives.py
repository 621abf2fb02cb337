import codecs
import pickle

import numpy as np
import pytest

from hvmodels.datasets.classification_archives import read_cifar, read_cub_list


NAMES = ["airplane", "automobile", "bird"]


def write_python2(path, values):
    """A pickle as Python 2 wrote it: byte strings, protocol 2, NumPy's old module names."""

    class Pickler(pickle._Pickler):
        dispatch = dict(pickle._Pickler.dispatch)

        def save_text(self, text):
            data = text if isinstance(text, bytes) else text.encode("latin1")
            self.write(b"T" + len(data).to_bytes(4, "little") + data)  # BINSTRING
            self.memoize(text)

        dispatch[str] = dispatch[bytes] = save_text

    with open(path, "wb") as file:
        Pickler(file, protocol=2).dump(values)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.", b"numpy.core."))


@pytest.fixture
def cifar10(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 3072), dtype=np.uint8)
    labels = [index % 3 for index in range(12)]
    write_python2(tmp_path / "batches.meta", {"label_names": NAMES, "num_vis": 3072})
    for start, name in zip(range(0, 12, 2), [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], strict=True):
        batch = {
            "data": images[start : start + 2],
            "labels": labels[start : start + 2],
            "filenames": ["a.png", "b.png"],
        }
        write_python2(tmp_path / name, batch)
    return tmp_path, images.reshape(-1, 3, 32, 32), np.array(labels)


def test_cifar10(cifar10):
    folder, images, labels = cifar10
    assert b"numpy.core.multiarray" in (folder / "test_batch").read_bytes()
    train, test = read_cifar(folder, "train"), read_cifar(folder, "test")
    assert train.class_names == tuple(NAMES) and (len(train), len(test)) == (10, 2)
    np.testing.assert_array_equal(train.sources.transpose(0, 3, 1, 2), images[:10])
    np.testing.assert_array_equal(test.sources.transpose(0, 3, 1, 2), images[10:])
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), labels)


def test_cifar100(tmp_path):
    pixels = np.arange(2 * 3072).astype(np.uint8).reshape(2, 3072)
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": NAMES, "coarse_label_names": ["thing"]}))
    (tmp_path / "train").write_bytes(pickle.dumps({"data": pixels, "fine_labels": [2, 0], "coarse_labels": [0, 0]}))
    train = read_cifar(tmp_path, "train")
    assert train.class_names == tuple(NAMES) and train.labels.tolist() == [2, 0]
    np.testing.assert_array_equal(train.sources[1, 0, :4, 1], pixels[1, 1024:1028])


class Bomb:
    def __reduce__(self):
        return codecs.encode, ("harm", "rot13")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda batch: batch | {"labels": Bomb()}, "No code of it was run"),
        (lambda batch: batch | {"data": batch["data"][:, :10]}, r"\(images, 3072\) of uint8"),
        (lambda batch: batch | {"data": batch["data"].astype(float)}, "uint8"),
        (lambda batch: batch | {"labels": [0]}, "as many integers `labels`"),
        (lambda batch: batch | {"labels": [0, 3]}, "labels from 0 to 2"),
        (lambda batch: [batch], "must be a pickled dict"),
    ],
)
def test_bad_cifar_batches(cifar10, change, message):
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}
    (cifar10[0] / "test_batch").write_bytes(pickle.dumps(change(batch)))
    with pytest.raises(ValueError, match=message):
        read_cifar(cifar10[0], "test")


def test_bad_cifar_folders(cifar10, tmp_path_factory):
    with pytest.raises(ValueError, match="`split` must be 'train' or 'test', got 'validation'"):
        read_cifar(cifar10[0], "validation")
    with pytest.raises(ValueError, match="must hold CIFAR's batches for Python"):
        read_cifar(tmp_path_factory.mktemp("empty"), "test")
    (cifar10[0] / "data_batch_3").unlink()
    with pytest.raises(ValueError, match=r"data_batch_3.* cannot be read"):
        read_cifar(cifar10[0], "train")
    (cifar10[0] / "test_batch").write_bytes((cifar10[0] / "test_batch").read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read"):
        read_cifar(cifar10[0], "test")


CUB = """001.Black_footed_Albatross/a b.jpg 0 139.0 30.0 153.0 264.0
002.Laysan_Albatross/c.jpg 1 0.5 2.0 255.0 242.0

001.Black_footed_Albatross/d.jpg 0 70.0 50.0 134.0 303.0
"""


def test_cub_list(tmp_path):
    (tmp_path / "list.txt").write_text(CUB)
    birds = read_cub_list(tmp_path / "list.txt", tmp_path / "images")
    assert birds.sources[0] == tmp_path / "images" / "001.Black_footed_Albatross" / "a b.jpg"
    assert birds.labels.tolist() == [0, 1, 0]
    assert birds.class_names == ("Black footed Albatross", "Laysan Albatross")
    assert birds.boxes[1].tolist() == [0.5, 2.0, 255.0, 242.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/b.jpg;0\n", "line 1 of .* must be `image label left top width height`"),
        ("a/b.jpg 0 1 1 5\n", "line 1"),
        (CUB + "a/b.jpg 0 1 1 0 5\n", "line 5"),
        (CUB + "a/b.jpg 0 1 nan 4 5\n", "line 5"),
        (CUB + "a/b.jpg 0 1 1 4 5\n", "label 0 to 'a' and 'Black footed Albatross'"),
        (CUB + "a/b.jpg 3 1 1 4 5\n", "each label"),
        ("", "each label"),
    ],
)
def test_bad_cub_lists(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_cub_list(tmp_path / "list.txt", tmp_path)


def test_missing_cub_list(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        read_cub_list(tmp_path / "absent.txt", tmp_path)

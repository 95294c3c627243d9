"""Datasets: bundled, from files, through torchvision; and what is refused."""

import gzip
import hashlib
import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch.testing import assert_close

from l2o.data.datasets import ARRAYS, Dataset, digits, from_npz, from_torchvision


def arrays(dtype=np.uint8, shape=(4, 3)):
    """Six train and four test images, labels 0 … 2."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (10, *shape))
    x = x.astype(dtype) if np.issubdtype(dtype, np.integer) else (x / 100 - 1).astype(dtype)
    y = np.array([0, 1, 2, 0, 1, 2, 2, 1, 0, 0])
    return {"x_train": x[:6], "y_train": y[:6], "x_test": x[6:], "y_test": y[6:]}


def saved(path: Path, **changes):
    """An .npz file with the arrays above, some replaced or (None) left out."""
    content = {name: value for name, value in (arrays() | changes).items() if value is not None}
    np.savez(path / "data.npz", **content)
    return str(path / "data.npz")


def refusal(path: str | Path) -> str:
    """The message, one line, that names the file."""
    with warnings.catch_warnings(), pytest.raises(ValueError) as caught:
        warnings.simplefilter("ignore")  # numpy's, about a damaged header
        from_npz(str(path))
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


# ---------------------------------------------------------------------------------------------------------- digits


def test_digits_are_scikit_learn_s_in_the_unit_interval():
    from sklearn.datasets import load_digits

    data, (x, y) = digits(), load_digits(return_X_y=True)
    assert data.x_train.shape == (1438, 8, 8) and data.x_test.shape == (359, 8, 8)
    assert data.num_classes == 10 and set(data.y_test.tolist()) == set(range(10))
    assert data.x_train.dtype == torch.float32 and data.y_train.dtype == torch.int64
    assert data.x_train.min() == 0 and data.x_train.max() == 1
    assert np.array_equal(torch.cat([data.x_train, data.x_test]).numpy() * 16, x.reshape(-1, 8, 8))
    assert np.array_equal(torch.cat([data.y_train, data.y_test]).numpy(), y)


@pytest.mark.parametrize(("fraction", "count"), [(0.1, 180), (0.25, 449)])
def test_the_test_split_is_the_fraction_asked_for(fraction, count):
    data = digits(fraction)
    assert (len(data.x_train), len(data.y_train), len(data.x_test), len(data.y_test)) == (
        1797 - count,
        1797 - count,
        count,
        count,
    )


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0, float("nan")])
def test_a_fraction_outside_the_unit_interval_is_refused(fraction):
    with pytest.raises(ValueError, match="test_fraction must lie between 0 and 1"):
        digits(fraction)


# ------------------------------------------------------------------------------------------------------------- npz


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5,), (4, 3), (4, 4, 3)], ids=str)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_round_trip(tmp_path, dtype, shape, save):
    content = arrays(dtype, shape)
    save(tmp_path / "data.npz", **content, unrelated=np.zeros(3))
    data = from_npz(str(tmp_path / "data.npz"))
    for name in ARRAYS:
        assert np.array_equal(getattr(data, name).numpy(), content[name])
    assert data.x_train.numpy().dtype == dtype and data.y_train.dtype == torch.int64 and data.num_classes == 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint16, np.uint64])
def test_labels_of_every_integer_type_are_int64(tmp_path, dtype):
    labels = arrays()["y_train"].astype(dtype)
    data = from_npz(saved(tmp_path, y_train=labels))
    assert data.y_train.dtype == torch.int64 and data.y_train.tolist() == labels.tolist()


def test_uint8_images_become_fractions_of_255():
    images = Dataset.images(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert images.dtype == torch.float32
    assert_close(images, torch.tensor([0.0, 0.2, 1.0]), rtol=1e-7, atol=0)


def test_float_images_are_kept():
    x = torch.tensor([-3.5, 0.0, 1e4])
    assert torch.equal(Dataset.images(x), x)


def test_images_take_the_default_dtype(float64):
    assert Dataset.images(torch.zeros(2, dtype=torch.float32)).dtype == torch.float64
    assert_close(Dataset.images(torch.tensor([51], dtype=torch.uint8)), torch.tensor([0.2]), rtol=1e-15, atol=0)


def test_byte_order_and_memory_order_do_not_matter(tmp_path):
    content = arrays(np.float32)
    changes = {"x_train": np.asfortranarray(content["x_train"]), "x_test": content["x_test"].astype(">f4")}
    data = from_npz(saved(tmp_path, **changes, y_train=content["y_train"].astype(">i2")))
    assert all(np.array_equal(getattr(data, name).numpy(), content[name]) for name in ARRAYS)


def test_to_moves_every_array(dataset):
    moved = dataset.to("meta")
    assert all(getattr(moved, name).device.type == "meta" for name in ARRAYS)
    assert dataset.x_train.device.type == "cpu"


@pytest.mark.parametrize("name", ["missing.npz", ".", ""])
def test_a_missing_file_is_refused_with_what_is_needed(tmp_path, name):
    message = refusal(tmp_path / name)
    assert "no dataset at" in message and all(array in message for array in ARRAYS)


FOREIGN = {
    "empty": (lambda path: path.touch(), "no intact .npz file: write it anew"),
    "half a zip": (lambda path: path.write_bytes(b"PK\x03\x04"), "no intact .npz file: write it anew"),
    "noise": (lambda path: path.write_bytes(bytes(range(128, 256))[::-1]), "no intact .npz file: write it anew"),
    "table": (lambda path: np.savetxt(path, np.zeros((4, 65)), delimiter=","), "a text (CSV?): read it with numpy.l"),
    "long table": (lambda path: np.savetxt(path, np.zeros((99, 650))), "a text (CSV?): read it with numpy.loadtxt"),
    "UTF-8 text": (lambda path: path.write_text("žluť " * 3000, encoding="utf-8"), "a text (CSV?)"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({})), "a pickle, which is never loaded"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"")), "compressed with gzip: unpack it first"),
    "HDF5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "an HDF5 file: read its arrays with h5py"),
    "LFS": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid"), "git lfs pull"),
    "tensors": (lambda path: torch.save({name: torch.zeros(4, 8, 8) for name in ARRAYS}, path), "one of torch.save"),
    "other zip": (lambda path: zipfile.ZipFile(path, "w").close(), "lacks x_train, y_train, x_test, y_test: it needs"),
}


@pytest.mark.parametrize("name", ["data.npz", "data.csv"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_refused_by_what_it_is(tmp_path, kind, name):
    """Whatever the file is called; and the remedy is ours, never numpy's advice to load unsafely."""
    write, says = FOREIGN[kind]
    write(tmp_path / name)
    message = refusal(tmp_path / name)
    assert says in message and "allow_pickle" not in message and "unsafe" not in message and "\x1b" not in message


def test_a_single_array_is_refused_whatever_it_is_called(tmp_path):
    for name in ("data.npz", "x.npy"):
        with open(tmp_path / name, "wb") as file:
            np.save(file, np.zeros((3, 4)))
        assert "a single array (.npy): load the arrays with numpy.load" in refusal(tmp_path / name)


def test_a_zip_whose_members_are_no_arrays_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as file:
        for name in ARRAYS:
            file.writestr(name, "text")
    assert "holds no array in x_train" in refusal(tmp_path / "data.npz")


def test_the_home_folder_is_expanded_for_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    saved(tmp_path)
    assert np.array_equal(from_npz("~/data.npz").x_test.numpy(), arrays()["x_test"])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("fraction", [0.02, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused(tmp_path, save, fraction):
    path = tmp_path / "data.npz"
    save(path, **arrays())
    content = path.read_bytes()
    path.write_bytes(content[: int(fraction * len(content))])
    assert "no intact .npz file" in refusal(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_byte_is_refused_or_harmless(tmp_path, save):
    """Every byte in turn: a ValueError, or exactly the arrays that were saved (zip has fields that nobody reads)."""
    path, content = tmp_path / "data.npz", arrays()
    save(path, **content)
    intact = path.read_bytes()
    refused = 0
    for position in range(0, len(intact), 5):
        path.write_bytes(intact[:position] + bytes([intact[position] ^ 0xFF]) + intact[position + 1 :])
        try:
            data = from_npz(str(path))
        except ValueError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert all(np.array_equal(getattr(data, name).numpy(), content[name]) for name in ARRAYS)
    assert refused > len(intact) / 20


@pytest.mark.parametrize("names", [["x_train"], ["y_test"], ["x_test", "y_test"], list(ARRAYS)], ids=str)
def test_missing_arrays_are_named(tmp_path, names):
    message = refusal(saved(tmp_path, **dict.fromkeys(names), other=np.zeros(2)))
    assert f"lacks {', '.join(names)}: it needs" in message


X, Y = arrays()["x_train"], arrays()["y_train"]
NAN = np.full((6, 4, 3), np.nan)
BAD = {
    "no image axis": ({"x_train": X[:, 0, 0]}, r"x_train must be uint8 or float images \(N, …\), got uint8 \(6,\)"),
    "a number": ({"x_test": np.float32(3)}, r"x_test must be uint8 or float images"),
    "int64 images": ({"x_train": X.astype(np.int64)}, r"x_train must be uint8 .*int64.*x.astype\(numpy.uint8\)"),
    "int16 images": ({"x_train": X.astype(np.int16) * 99}, "x_train must be uint8 .*int16.*floats, best scaled"),
    "bool images": ({"x_test": X > 0}, r"x_test must be uint8 .*bool.*x.astype\(numpy.float32\)"),
    "complex images": ({"x_train": X.astype(complex)}, "x_train must be uint8 or float images.*complex128"),
    "text images": ({"x_train": X.astype(str)}, "x_train must be uint8 or float images"),
    "float128 images": ({"x_train": X.astype(np.longdouble)}, "x_train must be uint8 or float images"),
    "float labels": (
        {"y_train": Y.astype(float)},
        r"y_train must be \(6,\) integers, got float64.*y.astype",
    ),
    "text labels": ({"y_train": Y.astype(str)}, r"y_train must be \(6,\) integers"),
    "one-hot labels": (
        {"y_train": np.eye(3, dtype=int)[Y]},
        r"must be \(6,\) integers, got int64 \(6, 3\).*y.argmax\(1\)",
    ),
    "labels in a column": ({"y_train": Y[:, None]}, r"y_train must be \(6,\) integers, got int64 \(6, 1\).*y\[:, 0\]"),
    "bool labels": ({"y_test": np.array([True] * 4)}, r"y_test must be \(4,\) integers, got bool.*numpy.int64"),
    "labels beyond int64": ({"y_train": Y.astype(np.uint64) + 2**63}, "labels must be 0 … C − 1; y_train has"),
    "images without pixels": ({"x_train": X[:, :, :0], "x_test": X[:4, :, :0]}, "x_train must hold images"),
    "too few train labels": ({"y_train": Y[:5]}, r"y_train must be \(6,\) integers, got int64 \(5,\)"),
    "too many test labels": ({"y_test": Y}, r"y_test must be \(4,\) integers, got int64 \(6,\)"),
    "negative labels": ({"y_train": Y - 1}, "labels must be 0 … C − 1; y_train has -1 … 1"),
    "test labels unknown to training": ({"y_test": np.array([0, 1, 3, 0])}, "y_test has 0 … 3"),
    "other test images": ({"x_test": np.zeros((4, 2, 3), np.uint8)}, r"x_test must hold images of x_train's shape"),
    "no images": ({"x_train": X[:0], "y_train": Y[:0]}, "x_train must hold images"),
    "no test images": ({"x_test": X[:0], "y_test": Y[:0]}, "x_test must hold images"),
    "nan": ({"x_train": NAN}, "x_train has values that are not finite"),
    "inf": ({"x_test": np.where(np.arange(48).reshape(4, 4, 3) == 47, -np.inf, 0)}, "x_test has values that are not"),
    "object images": ({"x_train": X.astype(object)}, "Python objects in x_train, which are never.*numpy.stack"),
    "object labels": ({"y_train": Y.astype(object)}, "Python objects in y_train, which are never"),
}


@pytest.mark.parametrize("case", BAD)
def test_arrays_that_do_not_fit_are_named(tmp_path, case):
    changes, expected = BAD[case]
    path = saved(tmp_path, **changes)
    with pytest.raises(ValueError, match=expected):
        from_npz(path)
    refusal(path)


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_loading_runs_no_pickle(tmp_path):
    path = saved(tmp_path, x_train=np.array([Trap(tmp_path / "trapped")] * 6, dtype=object))
    refusal(path)
    (tmp_path / "data.npz").write_bytes(pickle.dumps(Trap(tmp_path / "trapped")))
    refusal(path)
    assert not (tmp_path / "trapped").exists()


# ------------------------------------------------------------------------------------------------------ label subsets


@pytest.mark.parametrize("labels", [[0, 1, 2], [2, 0], [1]], ids=str)
def test_labels_choose_images_and_renumber_them_in_their_order(tmp_path, labels):
    content, data = arrays(), from_npz(saved(tmp_path), labels=labels)
    for split in ("train", "test"):
        rows = np.flatnonzero(np.isin(content[f"y_{split}"], labels))
        assert np.array_equal(getattr(data, f"x_{split}").numpy(), content[f"x_{split}"][rows])
        assert getattr(data, f"y_{split}").tolist() == [labels.index(y) for y in content[f"y_{split}"][rows]]
    assert data.num_classes == len(labels) and data.y_train.dtype == torch.int64


def test_every_loader_takes_labels(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch)
    assert (
        digits(labels=[7, 3]).num_classes == from_torchvision("CIFAR10", str(tmp_path), labels=[2, 1]).num_classes == 2
    )
    whole, part = digits(), digits(labels=[7, 3])
    assert torch.equal(part.x_test[part.y_test == 0], whole.x_test[whole.y_test == 7])


def test_held_out_labels_and_the_others_share_the_images_out(dataset):
    parts = dataset.only([2]), dataset.only([1, 0])
    for split in (0, 2):
        assert sum(len(part[split]) for part in parts) == len(dataset[split])


@pytest.mark.parametrize("labels", [[], [0, 3], [-1], [0, 0], [0.5], ["cat"], [[0]], 2, "02"], ids=str)
def test_labels_that_are_empty_twice_or_not_in_the_data_are_refused(tmp_path, labels):
    path = saved(tmp_path)
    with pytest.raises(ValueError, match=r"dataset.labels must be a list of .*different ones of \[0, 1, 2\], got"):
        from_npz(path, labels=labels)


def test_a_label_that_one_split_lacks_is_refused(tmp_path):
    path = saved(tmp_path, y_test=np.array([0, 1, 1, 0]))
    with pytest.raises(ValueError, match=r"ones of \[0, 1\], got \[0, 2\]"):
        from_npz(path, labels=[0, 2])


# ----------------------------------------------------------------------------------------------------- torchvision


def write_mnist(root: Path, name: str) -> dict[str, np.ndarray]:
    """Small files in the format of yann.lecun.com/exdb/mnist: magic number, sizes big-endian, bytes."""
    content = arrays(shape=(28, 28))
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        x, y = content[f"x_{split}"], content[f"y_{split}"].astype(np.uint8)
        images = struct.pack(">4i", 2051, len(x), 28, 28) + x.tobytes()
        labels = struct.pack(">2i", 2049, len(y)) + y.tobytes()
        for file, data in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
            with gzip.open(raw / f"{file}.gz", "wb") as packed:
                packed.write(data)
            torchvision.datasets.utils.extract_archive(str(raw / f"{file}.gz"), str(raw))  # as its download does
    return content


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Small files in CIFAR-10's python format; torchvision compares checksums, so these take the real ones' place."""
    content = arrays(shape=(32, 32, 3))
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name: str, value: object) -> str:
        (folder / name).write_bytes(pickle.dumps(value, protocol=2))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    def batch(name: str, x: np.ndarray, y: np.ndarray) -> list[str]:
        rows = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # a row is all red, then all green, then all blue values
        return [name, write(name, {"data": np.ascontiguousarray(rows), "labels": y.tolist()})]

    cifar = torchvision.datasets.CIFAR10
    halves = [slice(0, 2), slice(2, 6)]
    train = [batch(f"data_batch_{i}", content["x_train"][s], content["y_train"][s]) for i, s in enumerate(halves, 1)]
    monkeypatch.setattr(cifar, "train_list", train)
    monkeypatch.setattr(cifar, "test_list", [batch("test_batch", content["x_test"], content["y_test"])])
    meta = write("batches.meta", {"label_names": ["airplane", "automobile", "bird"]})
    monkeypatch.setattr(cifar, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta})
    return content


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10"])
@pytest.mark.parametrize("download", [False, True])  # nothing is downloaded where the files are there
def test_torchvision_s_files_are_read(tmp_path, monkeypatch, name, download):
    content = write_cifar(tmp_path, monkeypatch) if name == "CIFAR10" else write_mnist(tmp_path, name)
    data = from_torchvision(name, str(tmp_path), download=download)
    for array in ARRAYS:
        assert np.array_equal(getattr(data, array).numpy(), content[array])
    assert data.x_train.dtype == torch.uint8 and data.y_train.dtype == torch.int64 and data.num_classes == 3


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10"])
def test_without_files_the_ways_out_are_named(tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name} could not be loaded.*dataset=npz.*dataset=digits") as caught:
        from_torchvision(name, str(tmp_path / "nothing"), download=False)
    assert "\n" not in str(caught.value)


def test_what_torchvision_cannot_give_is_refused_with_what_it_can(tmp_path):
    for name in ("ImageNet", "mnist", "nothing"):
        with pytest.raises(ValueError, match=f"dataset.name must be one of MNIST, .*, CIFAR100, got '{name}'"):
            from_torchvision(name, str(tmp_path), download=False)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"dataset.root must be a folder, and .*file' is a file"):
        from_torchvision("MNIST", str(tmp_path / "file"))


@pytest.mark.parametrize("keep", [0, 3, 100])
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_damaged_files_of_torchvision_are_refused(tmp_path, file, keep):
    write_mnist(tmp_path, "MNIST")
    path = tmp_path / "MNIST" / "raw" / file
    path.write_bytes(path.read_bytes()[: min(keep, path.stat().st_size - 1)])
    with pytest.raises(ValueError, match="MNIST could not be loaded") as caught:
        from_torchvision("MNIST", str(tmp_path), download=False)
    assert "\n" not in str(caught.value)


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    content = write_mnist(tmp_path / "cache", "MNIST")
    assert np.array_equal(from_torchvision("MNIST", "~/cache", download=False).x_test.numpy(), content["x_test"])

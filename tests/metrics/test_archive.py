import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

from ensemble_transfer.metrics.archive import MOST_EXPANSION, read_array, read_predictions, with_checksum


def entry(shape, dtype="<f4", payload=b"", version=(1, 0)):
    """An array as the format writes it, whose header claims any shape."""
    stream = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    (npy.write_array_header_1_0 if version == (1, 0) else npy.write_array_header_2_0)(stream, header)
    return stream.getvalue() + payload


def archive(tmp_path, content, method=zipfile.ZIP_DEFLATED):
    path = tmp_path / "arrays.npz"
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("x.npy", content)
    return np.load(path, allow_pickle=False)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_what_the_file_holds_is_read(tmp_path, version):
    values = np.arange(6, dtype=np.float32)
    content = entry((2, 3), payload=values.tobytes(), version=version)
    np.testing.assert_array_equal(read_array(archive(tmp_path, content), "x"), values.reshape(2, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (entry((2**40, 7)), "'x' cannot be read: it claims 30786325577728 bytes; must be at most the 128 that"),
        (entry((2**40,), "|V0"), "it claims 1099511627776 bytes; must be at most the 128 that"),
        (entry((3, 10**30)), "it claims 12000000000000000000000000000000 bytes"),
        (entry((2,), "|O"), "it holds objects; must hold numbers or text"),
        (b"not an array", "it is not a NumPy array; must be saved by numpy.savez"),
        (npy.MAGIC_PREFIX + bytes((9, 0, 1, 0)), r"version \(9, 0\) of the format; must be one of \(1, 0\), \(2, 0\)"),
        (npy.MAGIC_PREFIX + bytes((1, 0, 1, 0)) + b"{", "cannot be read: its header is damaged: "),
        (entry((0, 0))[:-40], "cannot be read: its header is damaged: EOF"),
    ],
)
def test_a_claim_is_refused_before_anything_is_allocated(tmp_path, content, message):
    found = archive(tmp_path, content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            read_array(found, "x")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_directory_that_lies_about_sizes_is_refused(tmp_path):
    path = tmp_path / "arrays.npz"
    np.savez_compressed(path, x=np.zeros(1000))
    with zipfile.ZipFile(path) as file:
        entry_ = file.getinfo("x.npy")
        size, packed = entry_.file_size, entry_.compress_size
    content = path.read_bytes()
    path.write_bytes(content.replace(size.to_bytes(4, "little"), (2**30).to_bytes(4, "little")))
    message = f"it claims {2**30} bytes in {packed} compressed ones; must be at most {MOST_EXPANSION} times as many"
    with pytest.raises(ValueError, match=message):
        read_array(np.load(path), "x")


def test_zeros_are_not_taken_for_a_lie(tmp_path):
    path = tmp_path / "arrays.npz"
    np.savez_compressed(path, x=np.zeros(10**7, dtype=np.uint8))
    assert read_array(np.load(path), "x").shape == (10**7,)


def test_another_compression_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"by another method than numpy\.savez uses"):
        read_array(archive(tmp_path, entry((0,)), zipfile.ZIP_BZIP2), "x")


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match=r"is not a regular file; must be an \.npz file"):
        read_predictions(str(tmp_path / "pipe.npz"))


def test_edited_predictions_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"probabilities": rng.dirichlet(np.ones(3), (2, 5)).astype(np.float32), "labels": np.arange(5) % 3}
    arrays["source/labels"] = np.arange(4)
    np.savez_compressed(tmp_path / "whole.npz", **with_checksum(arrays))
    found, unread = read_predictions(str(tmp_path / "whole.npz"))
    assert unread == []
    assert (found["labels"] == arrays["labels"]).all()
    for name in arrays:
        edited = with_checksum(arrays) | {name: arrays[name][..., ::-1]}
        np.savez_compressed(tmp_path / "edited.npz", **edited)
        with pytest.raises(ValueError, match="its checksum does not match"):
            read_predictions(str(tmp_path / "edited.npz"))


def test_names_that_a_terminal_obeys_are_refused(tmp_path):
    np.savez(
        tmp_path / "evil.npz", probabilities=np.ones((1, 1, 2)), labels=np.zeros(1), **{"ood/\x1b[2J/x": np.ones(1)}
    )
    with pytest.raises(ValueError, match=r"has an array 'ood/\\x1b\[2J/x'; names must be printable"):
        read_predictions(str(tmp_path / "evil.npz"))

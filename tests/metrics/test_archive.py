import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from numpy.lib import format as npy

from ensemble_transfer.metrics import archive as archive_module
from ensemble_transfer.metrics.archive import MOST_EXPANSION, compact, read_array, read_predictions, with_checksum
from ensemble_transfer.metrics.evaluate import evaluate


def entry(shape, dtype="<f4"):
    """An array as the format writes it, whose header claims any shape."""
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def archive(tmp_path, content):
    path = tmp_path / "arrays.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", content)
    return np.load(path, allow_pickle=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (entry((2**40, 7)), "'x' cannot be read: it claims 30786325577728 bytes; must be at most the 128 that"),
        (entry((2,), "|O"), "it holds objects; must hold numbers or text"),
        (b"not an array", "'x' cannot be read: the magic string is not correct"),
        (npy.MAGIC_PREFIX + bytes((9, 0, 1, 0, 0, 0)) + b"{", "'x' cannot be read: "),
        (npy.MAGIC_PREFIX + bytes((1, 0, 1, 0)) + b"{", "'x' cannot be read: "),
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


def predictions(members, examples, classes):
    """Probabilities (members, examples, classes) and labels as of members that agree in part."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (examples,), generator=draws)
    logits = torch.randn(members, examples, classes, generator=draws) + 2 * torch.randn(classes, generator=draws)
    logits[:, torch.arange(examples), labels] += 6 + 4 * torch.randn(examples, generator=draws)
    return logits.softmax(-1).numpy(), labels.numpy()


def test_metrics_of_large_predictions_in_half_precision_agree_to_a_thousandth(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_module, "LARGE", 3 * 800 * 300)
    test, labels = predictions(3, 800, 300)
    held_out, truth = predictions(3, 100, 300)
    test[0, 0], test[1, 0] = np.eye(300)[[1, 2]]  # probabilities of 0 and 1
    arrays = {"probabilities": test, "labels": labels, "validation/probabilities": held_out, "validation/labels": truth}
    arrays |= {"ood/other/probabilities": test[:, ::-1].copy(), "source/probabilities": test}
    smaller = compact(arrays)
    changed = {"logits", "ood/other/logits", "source/logits"}
    assert set(smaller) == changed | {"labels", "validation/probabilities", "validation/labels"}
    assert all(smaller[name].dtype == np.float16 for name in changed)
    assert (smaller["logits"].argmax(-1) == test.argmax(-1)).all()
    np.savez_compressed(tmp_path / "half.npz", **with_checksum(smaller))
    found, unread = read_predictions(str(tmp_path / "half.npz"))
    assert unread == []
    assert found["validation"][0].tobytes() == held_out.tobytes()
    whole = evaluate(test, labels, validation=(held_out, truth), ood={"other": arrays["ood/other/probabilities"]})
    assert evaluate(**found) == pytest.approx(whole, abs=1e-3)


def test_logits_of_any_origin_are_read_and_others_are_refused(tmp_path):
    test, labels = predictions(2, 30, 4)
    both = {"logits": np.log(test) + 7.5, "labels": labels, "ood/a/logits": test, "ood/a/probabilities": test}
    np.savez(tmp_path / "logits.npz", **both)
    found, unread = read_predictions(str(tmp_path / "logits.npz"))
    np.testing.assert_allclose(found["probabilities"], test, atol=1e-6)
    assert (found["ood"]["a"] == test).all()
    assert unread == ["ood/a/logits"]
    for kind in (">f4", ">f8", "<f2", np.longdouble):
        np.savez(tmp_path / "logits.npz", logits=(np.log(test) + 7.5).astype(kind), labels=labels)
        np.testing.assert_allclose(read_predictions(str(tmp_path / "logits.npz"))[0]["probabilities"], test, atol=5e-3)
    np.savez(tmp_path / "logits.npz", logits=labels, labels=labels)
    with pytest.raises(ValueError, match=r"array 'logits' has shape \(30,\) of int64; must be floats by class"):
        read_predictions(str(tmp_path / "logits.npz"))


GROWTH = """
import torch
from ensemble_transfer.metrics import predictive
from ensemble_transfer.metrics.evaluate import evaluate
predictive.rows_at_once = lambda size: max(1, 2**22 // size)  # parts as small as these predictions
test = torch.rand(8, 2000, 250)
for member in test:
    torch.softmax(member * 9, -1, out=member)
labels = torch.arange(2000) % 250
evaluate(test[:2, :500], labels[:500])  # what is loaded at the first use
status = lambda name: 1024 * int(next(l for l in open("/proc/self/status") if l.startswith(name)).split()[1])
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
evaluate(test, labels, validation=(test[:, :500], labels[:500]))
print((status("VmHWM") - before) / test.nbytes)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="resets Linux's count of the peak")
def test_metrics_take_less_memory_than_the_predictions(forks, tmp_path):
    (tmp_path / "growth.py").write_text(GROWTH)
    assert float(forks.run(tmp_path / "growth.py", cwd=tmp_path).stdout) < 1.2

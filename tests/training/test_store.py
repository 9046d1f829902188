import errno
import multiprocessing
import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from refusals import refusal

from ensemble_transfer import Cost, Recipe, SettingError, Split
from ensemble_transfer.source.train import keep_source
from ensemble_transfer.training.fit import Start
from ensemble_transfer.training.spec import FitSpec
from ensemble_transfer.training.store import ABANDONED, SCHEMA, Fitted, Store, Unfinished, key_of

KEY = "ab" + "0" * 62
COST = Cost(20, 640, 10**13, 1.25, 0.5, 2**31, 4522)


def a_fit(value=1.0):
    weights = {"encoder.w": torch.tensor([value, -2.0]), "encoder.n": torch.tensor(7), "head.b": torch.zeros(0, 3)}
    return Fitted(weights, torch.tensor([[0.0, 2.5], [10.0, 0.25]]), COST)


def file_of(store, key=KEY):
    return store.root / "fits" / key[:2] / f"{key}.safetensors"


def filled(store):
    store.put(KEY, a_fit(), {"phase": "tiny"})
    return file_of(store)


def test_what_was_put_is_got_bit_by_bit(store):
    store.put(KEY, a_fit(), {"phase": "tiny"})
    got = Store(store.root).get(KEY)
    assert got.weights.keys() == a_fit().weights.keys()
    for name, tensor in a_fit().weights.items():
        assert torch.equal(got.weights[name], tensor)
        assert got.weights[name].dtype == tensor.dtype
    assert got.curve.tolist() == [[0.0, 2.5], [10.0, 0.25]]
    assert (got.cost, got.key, got.reused) == (COST, KEY, True)
    afresh = Store(store.root, reuse=False)
    assert afresh.get(KEY) is None
    afresh.put(KEY, a_fit(5.0), {})
    assert store.get(KEY).weights["encoder.w"][0] == 5.0


def test_a_key_is_a_sha256_that_ignores_order_and_depends_on_the_schema(monkeypatch):
    key = key_of(seed=1, recipe={"steps": 3, "lr": 0.1})
    assert key == key_of(recipe={"lr": 0.1, "steps": 3}, seed=1)
    assert len(bytes.fromhex(key)) == 32
    monkeypatch.setattr("ensemble_transfer.training.store.SCHEMA", SCHEMA + 1)
    assert key_of(seed=1, recipe={"steps": 3, "lr": 0.1}) != key


# Damage


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def become_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [truncate, become_a_folder])
def test_a_damaged_file_counts_as_absent_and_is_named(store, caplog, damage):
    path = filled(store)
    damage(path)
    assert store.get(KEY) is None
    [message] = caplog.messages
    assert message.startswith(f"{path} is damaged (")
    assert message.endswith("); the fit is computed again")


def test_a_file_that_the_system_cannot_read_now_is_not_damaged_and_stays(store, caplog, monkeypatch):
    path = filled(store)
    store.put_unfinished(KEY, UNFINISHED)

    def fail(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    with monkeypatch.context() as broken:
        broken.setattr(Path, "read_bytes", fail)
        assert store.get(KEY) is None
        assert store.unfinished(KEY) is None
    reason = os.strerror(errno.EMFILE)
    assert [message.split(" ", 1)[1] for message in caplog.messages] == [
        f"cannot be read now ({reason}); the fit is computed again",
        f"cannot be read now ({reason}); the fit starts again",
    ]
    assert path.exists()
    assert store.get(KEY) is not None
    assert store.unfinished(KEY).step == 7


def test_no_flipped_byte_goes_unnoticed(store, caplog):
    caplog.set_level("ERROR")
    path = filled(store)
    data = path.read_bytes()
    for place in range(0, len(data), 3):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        assert store.get(KEY) is None, f"byte {place}"
    path.write_bytes(data)
    assert store.get(KEY) is not None


def test_a_whole_file_of_another_key_is_not_taken_for_this_ones(store, caplog):
    other = "ab" + "1" * 62
    for key, value in ((KEY, 1.0), (other, 5.0)):
        store.put(key, a_fit(value), {"key": KEY})  # what a caller says of its origin does not count
        store.put_unfinished(key, replace(UNFINISHED, step=int(value)))
    for one, two in ((file_of(store), file_of(store, other)), (store._checkpoint(KEY), store._checkpoint(other))):
        first = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(first)
    for key in (KEY, other):
        assert (store.get(key), store.unfinished(key)) == (None, None)
    assert [text.split("(")[1].split(")")[0] for text in caplog.messages] == [
        f"it belongs to the key {key}" for key in (other, other, KEY, KEY)
    ]


# Writing


def test_a_failed_write_leaves_the_earlier_entry_and_nothing_else(store, monkeypatch):
    filled(store)
    whole = Path.write_bytes

    def half(path, data):
        whole(path, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    for key in (KEY, "ab" + "1" * 62):
        with pytest.raises(OSError, match="No space left") as caught:
            store.put(key, a_fit(5.0), {})
        assert caught.value.filename == str(file_of(store, key))
    assert list(file_of(store).parent.iterdir()) == [file_of(store)]
    assert store.get(KEY).weights["encoder.w"][0] == 1.0


def test_a_root_may_be_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store(Path("~/store")).root == tmp_path / "store"


def test_a_root_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        said = f"root='{root}': must be a folder that can be written: "
        assert str(refusal(Store, root)).startswith(said)


# What nobody needs any more


def old(path):
    past = time.time() - ABANDONED - 60
    os.utime(path, (past, past))


def test_old_locks_and_unfinished_fits_are_removed_unless_a_job_holds_them(store):
    for name in ("old", "held", "new"):
        store.put_unfinished(name, UNFINISHED)
        (store.root / "locks" / f"{name}.lock").touch()
    for name in ("old", "held"):
        old(store.root / "unfinished" / name)
        old(store.root / "locks" / f"{name}.lock")
    with FileLock(store.root / "locks" / "held.lock"):
        Store(store.root)
    assert {path.name for path in (store.root / "unfinished").iterdir()} == {"held", "new"}
    assert {path.name for path in (store.root / "locks").iterdir()} == {"held.lock", "new.lock"}


UNFINISHED = Unfinished({"w": torch.ones(2)}, {"exp_avg.w": torch.zeros(2)}, torch.tensor([[0.0, 2.0]]), 7, 1.5, 1.25)


def test_an_unfinished_fit_is_what_was_put_until_it_is_finished(store):
    assert store.unfinished(KEY) is None
    store.put_unfinished(KEY, replace(UNFINISHED, step=3))
    store.put_unfinished(KEY, UNFINISHED)
    got = store.unfinished(KEY)
    assert (got.step, got.seconds, got.cpu_seconds, got.curve.tolist()) == (7, 1.5, 1.25, [[0.0, 2.0]])
    assert (got.weights["w"].tolist(), got.optimizer["exp_avg.w"].tolist()) == ([1.0, 1.0], [0.0, 0.0])
    assert Store(store.root, reuse=False).unfinished(KEY) is None
    filled(store)
    assert store.unfinished(KEY) is None
    assert not list((store.root / "unfinished").iterdir())


@contextmanager
def acting_as(user, group):
    """Be another user in the block, who opens what they make to nobody (umask 077) but to whom the folder does."""
    before = os.umask(0o077)
    os.setegid(group)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.umask(before)


AS_ROOT = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can act as two users")


@AS_ROOT
def test_a_store_that_cannot_be_written_serves_what_it_has_and_is_refused_when_something_is_missing():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to other users
        Path(folder).chmod(0o755)
        root = Path(folder, "store")
        filled(Store(root))
        shutil.rmtree(root / "unfinished")
        for path in (root, *root.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        refusal = f"^root='{root}': must be a folder that can be written: Permission denied$"
        with acting_as(65534, 65534):
            store = Store(root)
            assert store.get(KEY) is not None
            with pytest.raises(SettingError, match=refusal), store.locked(["another"]):
                pass
            with pytest.raises(SettingError, match=refusal):
                Store(root, reuse=False)


@AS_ROOT
@pytest.mark.parametrize("mode", [0o2770, 0o2775])
def test_two_users_of_a_group_share_a_store(mode, source_ensemble):
    group, another = 54321, replace(source_ensemble, members=source_ensemble.members[:2])
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = Path(folder, "store")
        root.mkdir()
        os.chown(root, 0, group)
        root.chmod(mode)
        for user in (1001, 1002, 1001):
            with acting_as(user, group):
                store = Store(root)
                with store.locked([KEY]):
                    store.put_unfinished(KEY, Unfinished({"w": torch.ones(1)}, {}, torch.zeros(0, 2), 1, 0.0, 0.0))
                    store.put(KEY, a_fit(), {})
                keep_source(source_ensemble if user == 1001 else another, store)
        assert (root / "locks" / f"{KEY}.lock").stat().st_mode & 0o777 == mode & 0o666
        assert {path.stat().st_mode & 0o7777 for path in root.rglob("*") if path.is_dir()} == {mode}


# Fits


@pytest.fixture
def key(settings, architecture, target_task):
    """Return the key of a fit, but for what is changed."""

    def of(heads=False, recipe=Recipe(1), net=architecture, data=target_task.train, weights=0, seed=1, **changes):  # noqa: B008
        start = Start(changes.pop("member", 0), architecture.initial(weights), seed)
        return FitSpec(net, data, recipe, "any", heads).key(start, replace(settings, **changes))

    return of


def test_a_fit_has_another_key_for_all_that_decides_its_result(key, architecture, target_task):
    data, recipe = target_task.train, Recipe(1)
    changes = {"steps": 2, "batch_size": 16, "optimizer": "sgd", "lr": 1e-4, "head_lr_factor": 2.0, "weight_decay": 0.0}
    changes |= {"momentum": 0.5, "schedule": "constant", "warmup": 0.1, "clip": 1.0, "label_smoothing": 0.1}
    changes |= {"augment": "crop", "class_weights": "balanced"}
    deciding = [
        key(net=replace(architecture, mean=(0.4,))),
        key(weights=1),
        key(seed=2),
        key(data=Split(data.images[1:], data.labels[1:])),
        key(data=Split(data.images, data.labels.flip(0))),
        key(heads=True),
        *(key(recipe=replace(recipe, **{name: value})) for name, value in changes.items()),
    ]
    assert len({key(), *deciding}) == 1 + len(deciding)
    assert key(member=3) == key()
    assert key(group_size=1, checkpoint_seconds=1.0, threads=3, workers=2) == key()


@pytest.mark.parametrize("pays", [True, False])
def test_layout_and_precision_are_part_of_a_key_where_they_decide(key, monkeypatch, pays):
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: pays)
    assert key(channels_last=True) != key(channels_last=False)
    assert key() == key(channels_last=pays)
    assert key(executor="vectorised", channels_last=True) == key(channels_last=False)
    assert key(heads=True) == key(heads=True, channels_last=not pays)  # features have the layout of the device
    assert key(precision="bf16-mixed") != key()
    assert key(heads=True, precision="bf16-mixed") == key(heads=True)  # heads are trained in float32


# Locks, between processes; test_kills.py lets jobs train every fit once


def repeat(root, keys, told):
    """Take locks again and again, with time enough for another job to take its next one in between."""
    acquire = FileLock.acquire

    def slowly(self, *args, **kwargs):
        held = acquire(self, *args, **kwargs)
        time.sleep(0.02)
        return held

    FileLock.acquire = slowly
    for _ in range(5):
        with Store(root).locked(keys):
            pass
    told.put("done")


def test_overlapping_groups_in_opposite_order_do_not_deadlock(store):
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    jobs = [context.Process(target=repeat, args=(store.root, keys, told)) for keys in ("abcd", "edcb")]
    for job in jobs:
        job.start()
    assert [told.get(timeout=60) for _ in jobs] == ["done", "done"]
    for job in jobs:
        job.join()

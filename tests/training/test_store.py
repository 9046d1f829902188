import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from select import select

import pytest
import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file

from ensemble_transfer.errors import SettingError
from ensemble_transfer.tasks.mapped import stored
from ensemble_transfer.tasks.task import Split
from ensemble_transfer.training.cost import Cost
from ensemble_transfer.training.fit import Fitter, Start
from ensemble_transfer.training.recipe import Recipe
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


def test_nothing_is_got_for_another_key(store):
    filled(store)
    assert store.get("ab" + "1" * 62) is None
    assert store.get("cd" + "0" * 62) is None


def test_putting_mutates_nothing_and_takes_strided_and_shared_tensors(store):
    matrix = torch.arange(6.0).reshape(2, 3)
    weights = {"a": matrix.t(), "b": matrix[0], "c": torch.nn.Parameter(matrix)}
    store.put(KEY, replace(a_fit(), weights=weights), {})
    assert weights["a"].data_ptr() == matrix.data_ptr()
    assert matrix.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert store.get(KEY).weights["a"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


def test_without_reuse_nothing_is_found_but_all_is_remembered(store):
    filled(store)
    afresh = Store(store.root, reuse=False)
    assert afresh.get(KEY) is None
    afresh.put(KEY, a_fit(5.0), {})
    assert store.get(KEY).weights["encoder.w"][0] == 5.0


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"recipe": {"steps": 3, "lr": 0.2}}, {"more": None}, {"recipe": {"steps": 4, "lr": 0.1}}]
)
def test_a_key_changes_with_whatever_decides(change):
    decides = {"seed": 1, "recipe": {"steps": 3, "lr": 0.1}}
    assert key_of(**decides | change) != key_of(**decides)


def test_a_key_is_a_sha256_that_ignores_order_and_depends_on_the_schema(monkeypatch):
    key = key_of(seed=1, recipe={"steps": 3, "lr": 0.1})
    assert key == key_of(recipe={"lr": 0.1, "steps": 3}, seed=1)
    assert len(bytes.fromhex(key)) == 32
    monkeypatch.setattr("ensemble_transfer.training.store.SCHEMA", SCHEMA + 1)
    assert key_of(seed=1, recipe={"steps": 3, "lr": 0.1}) != key


# Damage


def truncate(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip_the_last_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def state_another_cost(path):
    data = path.read_bytes()
    assert b"4522" in data
    path.write_bytes(data.replace(b"4522", b"4523"))


def state_no_metadata(path):
    save_file(load_file(path), path)


def rename_a_tensor(path):
    data = path.read_bytes()
    assert b"weights.head.b" in data
    path.write_bytes(data.replace(b"weights.head.b", b"weights.head.c"))


def empty(path):
    path.write_bytes(b"")


def become_a_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = [
    truncate,
    flip_the_last_bit,
    state_another_cost,
    state_no_metadata,
    rename_a_tensor,
    empty,
    become_a_folder,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_counts_as_absent_and_is_named(store, caplog, damage):
    path = filled(store)
    damage(path)
    assert store.get(KEY) is None
    [message] = caplog.messages
    assert message.startswith(f"{path} is damaged (")
    assert message.endswith("); the fit is computed again")


def failing(error, monkeypatch):
    """Let no file be read, because of the system."""

    def fail(path):
        raise OSError(error, os.strerror(error), str(path))

    monkeypatch.setattr(Path, "read_bytes", fail)


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES])
def test_a_file_that_the_system_cannot_read_now_is_not_damaged_and_stays(store, caplog, monkeypatch, error):
    path = filled(store)
    store.put_unfinished(KEY, UNFINISHED)
    with monkeypatch.context() as broken:
        failing(error, broken)
        assert store.get(KEY) is None
        assert store.unfinished(KEY) is None
    reason = os.strerror(error)
    assert [message.split(" ", 1)[1] for message in caplog.messages] == [
        f"cannot be read now ({reason}); the fit is computed again",
        f"cannot be read now ({reason}); the fit starts again",
    ]
    assert path.exists()
    assert store.get(KEY) is not None
    assert store.unfinished(KEY).step == 7


def test_no_file_handle_left_is_not_damage(store, caplog):
    resource = pytest.importorskip("resource")
    filled(store)
    before, kept = resource.getrlimit(resource.RLIMIT_NOFILE), []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[0]), before[1]))
    try:
        with suppress(OSError):
            while True:
                kept.append(open(os.devnull))  # noqa: SIM115, PTH123  # until there are no more
        found = store.get(KEY)
    finally:
        for file in kept:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert found is None
    [message] = caplog.messages
    assert "cannot be read now (Too many open files)" in message
    assert store.get(KEY) is not None


def test_no_flipped_byte_goes_unnoticed(store, caplog):
    caplog.set_level("ERROR")
    path = filled(store)
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        assert store.get(KEY) is None, f"byte {place}"
    path.write_bytes(data)
    assert store.get(KEY) is not None


class Hostile:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("dump", [pickle.dump, torch.save])
def test_nothing_is_unpickled(store, tmp_path, dump):
    mark = tmp_path / "executed"
    path = filled(store)
    with path.open("wb") as file:
        dump(Hostile(mark), file)
    assert store.get(KEY) is None
    assert not mark.exists()


# Writing


@pytest.fixture
def half_a_disk(monkeypatch):
    """Let every file be written by half, and then fail."""
    whole = Path.write_bytes

    def half(path, data):
        whole(path, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)


def test_a_failed_write_leaves_no_entry(store, half_a_disk):
    with pytest.raises(OSError, match="No space left") as caught:
        store.put(KEY, a_fit(), {})
    assert caught.value.filename == str(file_of(store))
    assert list(file_of(store).parent.iterdir()) == []
    assert store.get(KEY) is None


def test_a_failed_write_leaves_the_earlier_entry(store, request):
    filled(store)
    request.getfixturevalue("half_a_disk")
    with pytest.raises(OSError, match="No space left"):
        store.put(KEY, a_fit(5.0), {})
    assert store.get(KEY).weights["encoder.w"][0] == 1.0


def test_no_file_is_visible_before_it_is_whole(store, monkeypatch):
    seen, whole = [], Path.write_bytes

    def watched(path, data):
        whole(path, data)
        seen.append((path.parent, file_of(store).exists(), store.get(KEY)))

    monkeypatch.setattr(Path, "write_bytes", watched)
    filled(store)
    assert seen == [(file_of(store).parent, False, None)]
    assert [path.name for path in file_of(store).parent.iterdir()] == [f"{KEY}.safetensors"]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_root_that_cannot_be_written_is_refused(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(SettingError) as caught:
        Store(tmp_path / place)
    assert str(caught.value).startswith(f"root='{tmp_path / place}': must be a folder that can be written: ")


def test_making_a_store_leaves_no_probe_behind(tmp_path):
    Store(tmp_path / "deep" / "store")
    assert sorted(path.name for path in (tmp_path / "deep" / "store").iterdir()) == ["fits", "locks", "unfinished"]


def test_a_relative_root_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store(Path("store"))
    monkeypatch.chdir("/")
    assert filled(store).is_relative_to(tmp_path)


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


READER = """
import os, sys
from pathlib import Path
from ensemble_transfer.errors import SettingError
from ensemble_transfer.training.store import Store
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
store = Store(Path(sys.argv[1]))
print(store.get(sys.argv[2]) is not None)
try:
    with store.locked(["another"]):
        print("locked")
except SettingError as error:
    print(error)
try:
    Store(Path(sys.argv[1]), reuse=False)
except SettingError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(os, "setuid"), reason="takes the right to write away by the user's number")
def test_a_store_that_cannot_be_written_serves_what_it_has_and_is_refused_when_something_is_missing():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to other users
        Path(folder).chmod(0o755)
        store = Store(Path(folder, "store"))
        filled(store)
        shutil.rmtree(store.root / "unfinished")
        for path in (store.root, *store.root.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        command = [sys.executable, "-c", READER, str(store.root), KEY]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        for path in (store.root, *store.root.rglob("*")):
            path.chmod(0o755)
        assert done.returncode == 0, done.stderr
        found, *refusals = done.stdout.splitlines()
        assert found == "True"
        assert refusals == [f"root='{store.root}': must be a folder that can be written: Permission denied"] * 2


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


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can act as two users")
@pytest.mark.parametrize("mode", [0o2770, 0o2775])
def test_two_users_of_a_group_share_a_store(mode, monkeypatch):
    group = 54321
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
        assert (root / "locks" / f"{KEY}.lock").stat().st_mode & 0o777 == mode & 0o666
        assert {path.stat().st_mode & 0o7777 for path in root.rglob("*") if path.is_dir()} == {mode}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can act as two users")
def test_a_user_reads_the_decoded_images_of_another():
    images = torch.arange(2 * 16, dtype=torch.uint8).view(2, 1, 4, 4)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "some.npy"
        stored(path, (1, 4, 4), lambda _: [images])
        with acting_as(1001, 1001):
            found = stored(path, (1, 4, 4), lambda _: pytest.fail("decoded again"))[0]
            assert torch.equal(found, images)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can act as two users")
def test_a_private_store_stays_private():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        with acting_as(1001, 1001):
            store = Store(Path(folder, "store"))
            with store.locked([KEY]):
                store.put(KEY, a_fit(), {})
        assert {path.stat().st_mode & 0o077 for path in (store.root, *store.root.rglob("*"))} == {0}


# Fits


@pytest.fixture(scope="module")
def architecture(backbone):
    return backbone.architecture(8, 1, 5)


def test_a_damaged_fit_is_computed_again(store, settings, architecture, target_task, caplog):
    fitter, starts = Fitter(settings, store), [Start(0, architecture.initial(0), 1)]

    def fit():
        [fitted] = fitter.fit(architecture, starts, target_task.train, Recipe(2), "tiny").fitted
        return fitted

    first, second = fit(), fit()
    truncate(file_of(store, first.key))
    third, fourth = fit(), fit()
    assert [fitted.reused for fitted in (first, second, third, fourth)] == [False, True, False, True]
    assert any(m.startswith(f"{file_of(store, first.key)} is damaged") for m in caplog.messages)
    for name, tensor in first.weights.items():
        assert torch.equal(tensor, third.weights[name])
        assert torch.equal(tensor, fourth.weights[name])


def test_a_fit_has_another_key_for_all_that_decides_its_result(settings, store, architecture, target_task):
    start, data, recipe = Start(0, architecture.initial(0), 1), target_task.train, Recipe(1)

    def key(architecture=architecture, start=start, data=data, recipe=recipe, settings=settings, heads=False):
        fitter = Fitter(settings, store)
        fits = (fitter.fit_heads if heads else fitter.fit)(architecture, [start], data, recipe, "any")
        return fits.fitted[0].key

    fewer = Split(data.images[1:], data.labels[1:])
    relabelled = Split(data.images, data.labels.flip(0))
    deciding = [
        key(replace(architecture, mean=(0.4,))),
        key(start=replace(start, weights=architecture.initial(1))),
        key(start=replace(start, seed=2)),
        key(data=fewer),
        key(data=relabelled),
        key(settings=replace(settings, precision="bf16-mixed")),
        key(heads=True),
        *(key(recipe=replace(recipe, **change)) for change in RECIPE_CHANGES),
    ]
    assert len({key(), *deciding}) == 1 + len(deciding)
    assert key(start=replace(start, member=3)) == key()
    assert key(settings=replace(settings, group_size=1, checkpoint_seconds=1.0)) == key()


RECIPE_CHANGES = [
    {"steps": 2},
    {"batch_size": 16},
    {"optimizer": "sgd"},
    {"lr": 1e-4},
    {"head_lr_factor": 2.0},
    {"weight_decay": 0.0},
    {"momentum": 0.5},
    {"schedule": "constant"},
    {"warmup": 0.1},
    {"clip": 1.0},
    {"label_smoothing": 0.1},
]

# Locks, between processes

WORKER = """
import sys, time
from pathlib import Path
import filelock
from ensemble_transfer.training.store import Store
from ensemble_transfer.training.cost import Cost
from ensemble_transfer.training.store import Fitted
import torch

store, acquire = Store(Path(sys.argv[1])), filelock.FileLock.acquire

def slowly(self, *args, **kwargs):
    held = acquire(self, *args, **kwargs)
    time.sleep(0.02)  # time enough for the other job to take its next lock
    return held

def compute(keys):
    with store.locked(keys):
        missing = [key for key in keys if store.get(key) is None]
        for key in missing:
            time.sleep(0.2)
            store.put(key, Fitted({"w": torch.tensor(1.0)}, torch.zeros(0, 2), Cost(1)), {})
    return len(missing)

def repeat(keys):
    filelock.FileLock.acquire = slowly
    for _ in range(5):
        with store.locked(keys):
            pass
    return "done"

def hold(keys):
    with store.locked(keys):
        print("held", flush=True)
        time.sleep(600)

print("ready", flush=True)
for line in sys.stdin:
    task, *keys = line.split()
    print(globals()[task](keys), flush=True)
"""


class Job:
    """Another process with the same store."""

    def __init__(self, root):
        code = [sys.executable, "-c", WORKER, str(root)]
        self.process = subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *words):
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()

    def answer(self):
        ready, _, _ = select([self.process.stdout], [], [], 60)
        assert ready, "no answer within a minute"
        return self.process.stdout.readline().strip()


@contextmanager
def running(root, count):
    jobs = [Job(root) for _ in range(count)]
    try:
        assert [job.answer() for job in jobs] == ["ready"] * count
        yield jobs
    finally:
        for job in jobs:
            job.process.kill()
            job.process.communicate()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def two_jobs(shared):
    with running(shared.root, 2) as jobs:
        yield jobs


def test_two_jobs_compute_a_fit_once(shared, two_jobs):
    one, other = two_jobs
    one.ask("compute", "k1", "k2", "k3")
    other.ask("compute", "k3", "k2", "k1")
    assert sorted([one.answer(), other.answer()]) == ["0", "3"]
    assert all(shared.get(key) is not None for key in ("k1", "k2", "k3"))


def test_overlapping_groups_in_opposite_order_do_not_deadlock(two_jobs):
    one, other = two_jobs
    one.ask("repeat", "a", "b", "c", "d")
    other.ask("repeat", "e", "d", "c", "b")
    assert [one.answer(), other.answer()] == ["done", "done"]


def test_a_killed_job_gives_its_lock_back(shared):
    with running(shared.root, 1) as [job]:
        job.ask("hold", "k4")
        assert job.answer() == "held"
        lock = FileLock(shared.root / "locks" / "k4.lock")
        with pytest.raises(Timeout):
            lock.acquire(timeout=0.2)
        os.kill(job.process.pid, signal.SIGKILL)
        lock.acquire(timeout=10)
        lock.release()


def test_all_keys_are_held_at_the_same_time(store):
    locks = [FileLock(store.root / "locks" / f"{key}.lock") for key in ("a", "b", "c")]
    with store.locked(["c", "a", "b"]):
        for lock in locks:
            with pytest.raises(Timeout):
                lock.acquire(timeout=0)
    for lock in locks:
        lock.acquire(timeout=0)
        lock.release()


def test_keys_that_repeat_are_locked_once(store):
    with store.locked(["a", "b", "a"]):
        assert {path.name for path in (store.root / "locks").iterdir()} == {"a.lock", "b.lock"}


def test_a_lock_is_given_back_when_the_work_fails(store):
    with pytest.raises(ZeroDivisionError), store.locked(["a"]):
        raise ZeroDivisionError
    with FileLock(store.root / "locks" / "a.lock", timeout=0):
        pass


def test_an_entry_says_where_it_came_from_in_plain_json(store):
    header = filled(store).read_bytes()
    length = int.from_bytes(header[:8], "little")
    about = json.loads(json.loads(header[8 : 8 + length])["__metadata__"]["about"])
    assert about["phase"] == "tiny"
    assert about["cost"]["steps"] == 20

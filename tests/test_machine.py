import ctypes
import multiprocessing
import resource
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import joblib
import pytest

from ensemble_transfer import machine
from ensemble_transfer.machine import answers, free_memory, is_one_of_many, keep_freed_memory, usable_cores


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@contextmanager
def server(status):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()
        thread.join()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_freed_memory_is_used_again_without_fresh_pages():
    keep_freed_memory()
    bytearray(2**26)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(2**26)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 2**26 / resource.getpagesize() / 10


@pytest.fixture
def listener():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


def url_of(listener):
    return f"http://127.0.0.1:{listener.getsockname()[1]}/"


def test_any_answer_counts_and_one_is_enough(monkeypatch, listener):
    monkeypatch.setattr(machine, "PATIENCE", 30)
    started = time.monotonic()
    for status in (200, 403, 500):
        with server(status) as url:
            assert answers(url_of(listener), url)  # the first one never answers
    assert time.monotonic() - started < 15


def silent_name_server(*_, **__):
    time.sleep(30)
    raise socket.gaierror("no name server")


def test_a_closed_port_and_silence_are_given_up_within_seconds(monkeypatch, listener):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert not answers(url_of(closed))
    monkeypatch.setattr(machine, "PATIENCE", 0.2)
    started = time.monotonic()
    assert not answers(url_of(listener))
    monkeypatch.setattr(socket, "getaddrinfo", silent_name_server)
    assert not answers("http://example.org/")
    assert time.monotonic() - started < 15


@pytest.fixture
def cgroup(monkeypatch, tmp_path):
    """Pretend to be in a container with these files."""

    def pretend(**files):
        for name, text in {"meminfo": "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n", **files}.items():
            (tmp_path / name.replace("_", ".")).write_text(text)
        monkeypatch.setattr(machine, "_CGROUP", tmp_path)
        monkeypatch.setattr(machine, "Path", {"/proc/meminfo": tmp_path / "meminfo"}.__getitem__)

    return pretend


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory_max": "max\n", "memory_current": "5\n"}, 4_096_000),
        ({"memory_max": "3000000", "memory_current": "1000000", "memory_stat": "anon 4\ninactive_file 5\n"}, 2_000_005),
        ({"memory_max": "1000\n", "memory_current": "2000\n"}, 0),
    ],
)
def test_free_memory_is_the_least_of_machine_and_container(cgroup, files, free):
    cgroup(**files)
    assert free_memory() == free


def test_usable_cores_are_the_fewest_of_the_machine_and_of_what_was_asked_for(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    for asked, usable in {"4": 4, "16": 8, "0": 8, "4,2": 8, "": 8}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert usable_cores() == usable
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert usable_cores() == 8


def test_a_process_beside_others_without_a_share_of_its_own_is_recognised(monkeypatch):
    names = {"MainProcess": False, "LokyProcess-2": False, "SpawnPoolWorker-1": True}
    for executor, many in (("slurm", names), ("local", dict.fromkeys(names, True))):
        monkeypatch.setenv("SUBMITIT_EXECUTOR", executor)
        for name in names:
            monkeypatch.setattr(multiprocessing.current_process(), "name", name)
            assert is_one_of_many() == many[name]

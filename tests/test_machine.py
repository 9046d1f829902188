import multiprocessing
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import joblib
import pytest

from ensemble_transfer import machine
from ensemble_transfer.machine import answers, free_memory, is_one_of_many, usable_cores


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


@pytest.mark.parametrize("status", [200, 403, 500])
def test_any_answer_counts(status):
    with server(status) as url:
        assert answers(url)


def test_one_answer_is_enough_and_is_not_waited_for(monkeypatch):
    started = time.monotonic()
    with server(200) as url, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(machine, "PATIENCE", 30)
        assert answers(f"http://127.0.0.1:{silent.getsockname()[1]}/", url)
        assert time.monotonic() - started < 15


def test_a_closed_port_does_not_answer():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert not answers(f"http://127.0.0.1:{closed.getsockname()[1]}/")


def silent_name_server(*_, **__):
    time.sleep(30)
    raise socket.gaierror("no name server")


def test_what_is_no_http_is_an_answer_too(monkeypatch):
    def talk():
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"220 mail.example.org\r\n")

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=talk)
        thread.start()
        assert answers(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        thread.join()


def test_silence_is_given_up_within_seconds(monkeypatch):
    monkeypatch.setattr(machine, "PATIENCE", 0.2)
    started = time.monotonic()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert not answers(f"http://127.0.0.1:{silent.getsockname()[1]}/")
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
        ({}, 4_096_000),
        ({"memory_max": "max\n", "memory_current": "5\n"}, 4_096_000),
        ({"memory_max": "3000000\n", "memory_current": "1000000\n"}, 2_000_000),
        (
            {"memory_max": "3000000", "memory_current": "1000000", "memory_stat": "anon 4\ninactive_file 500\n"},
            2_000_500,
        ),
        ({"memory_max": "90000000\n", "memory_current": "1000000\n"}, 4_096_000),
        ({"memory_max": "1000\n", "memory_current": "2000\n"}, 0),
    ],
)
def test_free_memory_is_the_least_of_machine_and_container(cgroup, files, free):
    cgroup(**files)
    assert free_memory() == free


@pytest.mark.parametrize(
    ("cores", "asked", "usable"),
    [(8, None, 8), (8, "4", 4), (8, "16", 8), (8, "0", 8), (8, "4,2", 8), (8, "", 8), (1, "2", 1)],
)
def test_usable_cores_are_the_fewest_of_the_machine_and_of_what_was_asked_for(monkeypatch, cores, asked, usable):
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert usable_cores() == usable


@pytest.mark.parametrize(
    ("name", "executor", "many"),
    [
        ("MainProcess", None, False),
        ("MainProcess", "slurm", False),
        ("MainProcess", "local", True),
        ("LokyProcess-2", None, False),
        ("SpawnPoolWorker-1", None, True),
    ],
)
def test_a_process_beside_others_without_a_share_of_its_own_is_recognised(monkeypatch, name, executor, many):
    monkeypatch.setattr(multiprocessing.current_process(), "name", name)
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    if executor:
        monkeypatch.setenv("SUBMITIT_EXECUTOR", executor)
    assert is_one_of_many() == many

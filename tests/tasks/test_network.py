import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ensemble_transfer.tasks import network
from ensemble_transfer.tasks.network import answers


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
        monkeypatch.setattr(network, "PATIENCE", 2)
        assert answers(f"http://127.0.0.1:{silent.getsockname()[1]}/", url)
        assert time.monotonic() - started < 1


def test_a_closed_port_does_not_answer():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert not answers(f"http://127.0.0.1:{closed.getsockname()[1]}/")


def silent_name_server(*_, **__):
    time.sleep(1)
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
    monkeypatch.setattr(network, "PATIENCE", 0.2)
    started = time.monotonic()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert not answers(f"http://127.0.0.1:{silent.getsockname()[1]}/")
    monkeypatch.setattr(socket, "getaddrinfo", silent_name_server)
    assert not answers("http://example.org/")
    assert time.monotonic() - started < 1

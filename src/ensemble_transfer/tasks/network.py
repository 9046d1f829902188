"""Whether servers can be reached, known within seconds."""

import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPException

PATIENCE = 5.0
"""Seconds in which a server must answer. Libraries by themselves try every address again and again, for minutes."""


def answers(*urls: str) -> bool:
    """Return whether one of some servers answers anything at all, through a proxy where one is set."""
    answered = threading.Event()

    def ask(url: str) -> None:
        try:
            urllib.request.urlopen(url, timeout=PATIENCE).close()
        except (urllib.error.HTTPError, HTTPException):
            answered.set()  # a refusal is an answer too
        except (OSError, ValueError):
            return
        else:
            answered.set()

    # In threads, since looking a name up has no timeout.
    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PATIENCE
    while not answered.wait(0.02) and time.monotonic() < deadline:
        if not any(thread.is_alive() for thread in threads):
            break
    return answered.is_set()

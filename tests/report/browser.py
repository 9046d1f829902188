"""Headless Chromium for tests of pages, by its DevTools protocol over a pipe: no driver and no further package."""

import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # which a container has little of
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def executable() -> str | None:
    """Return the path of an installed Chromium."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def axe() -> Path | None:
    """Return axe-core's script: AXE_CORE names it, or ``npm install axe-core`` has put it beside the project."""
    named = os.environ.get("AXE_CORE")
    root = Path(__file__).parents[2]
    places = [Path(named)] if named else [root / "node_modules" / "axe-core" / "axe.min.js"]
    return next((place for place in places if place.is_file()), None)


class Browser:
    """One tab. Calling it sends a command and returns its result.

    Args:
        profile: An empty folder for what the browser writes.
    """

    def __init__(self, profile: Path):
        commands, self._out = os.pipe()
        self._in, answers = os.pipe()
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10) for descriptor in (commands, answers)]

        def place():  # the protocol's pipes are descriptors 3 and 4
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self._said = profile / "stderr"
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [executable(), *FLAGS, f"--user-data-dir={profile}"],
                preexec_fn=place,
                pass_fds=(3, 4),
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
        for descriptor in (commands, answers, *high):
            os.close(descriptor)
        self._sent, self._buffer, self._session, self.events = 0, b"", None, []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method, **parameters):
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        os.write(
            self._out, json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        )
        while (answer := self._message()).get("id") != self._sent:
            self.events.append(answer)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _message(self):
        while b"\0" not in self._buffer:
            part = os.read(self._in, 1 << 16)
            assert part, f"the browser has ended: {self._said.read_text(errors='replace')[-2000:]}"
            self._buffer += part
        first, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(first)

    def open(self, page: Path, width: int, dark: bool = False) -> None:
        """Open a page at a width, and wait until it is loaded."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._message())

    def run(self, script: str):
        """Return the value of an expression of JavaScript, waited for if it is a promise."""
        answer = self("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def complaints(self) -> list[dict]:
        """Return errors of scripts and of the console since the page was opened, refused requests among them."""
        self.run("0")  # whatever came before is read
        kinds = "Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"
        return [event["params"] for event in self.events if event.get("method") in kinds]

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

"""A headless Chromium, driven through its DevTools protocol over a pipe: what the page looks like to a browser.

The browser is the system's; nothing is downloaded and no port is opened. `find` says where it is, `Browser` starts it
with a profile of its own, `Browser.open` loads a file and gives a `Tab` that knows every message and every request.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 60  # for any one answer, on a busy machine

# The browser reads commands from descriptor 3 and writes to 4; descriptors cannot be renumbered in the parent.
_RENUMBERED = (
    "import os,sys; os.dup2(int(sys.argv[1]),3); os.dup2(int(sys.argv[2]),4); os.execv(sys.argv[3],sys.argv[3:])"
)
_ARGUMENTS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)


def find() -> str | None:
    """The path of a Chromium on this machine."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """A running Chromium; made by `start`."""

    def __init__(self, process: subprocess.Popen[bytes], commands: int, answers: int):
        self._process, self._commands, self._answers = process, commands, answers
        self._sent = 0
        self._rest = b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, parameters: dict[str, Any] | None = None, session: str | None = None) -> dict[str, Any]:
        """One command and its result; events that come meanwhile are kept."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters or {}}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            found = self._next()
            if found.get("id") == self._sent:
                assert "error" not in found, f"{method}: {found['error']}"
                result: dict[str, Any] = found["result"]
                return result
            self.events.append(found)

    def wait(self, method: str) -> None:
        """Until an event has come."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._answers], [], [], SECONDS)[0], "the browser does not answer"
            part = os.read(self._answers, 1 << 20)
            assert part, "the browser ended"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found

    def open(self, page: Path, width: int, *, dark: bool = False, height: int = 900) -> Tab:
        """Load a file in a tab of this size, under a light or dark colour scheme."""
        self.events.clear()
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        tab = Tab(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        tab.call("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.call("Emulation.setEmulatedMedia", {"features": [scheme]})
        tab.call("Page.navigate", {"url": page.resolve().as_uri()})
        self.wait("Page.loadEventFired")
        return tab


class Tab:
    """A page in a browser."""

    def __init__(self, browser: Browser, session: str):
        self._browser, self._session = browser, session

    def call(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._browser.call(method, parameters, self._session)

    def evaluate(self, expression: str) -> Any:
        """The JSON value of an expression in the page."""
        found = self.call("Runtime.evaluate", {"expression": expression, "returnByValue": True})
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            pressed = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code}
            self.call("Input.dispatchKeyEvent", pressed)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Everything the browser said about the page: its console, its log, exceptions."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event for event in self._browser.events if event.get("method") in kinds]

    @property
    def requests(self) -> list[str]:
        """What the page asked for, itself left out."""
        asked = [e["params"]["request"]["url"] for e in self._browser.events if e.get("method") == _REQUEST]
        return [url for url in asked if not url.startswith(("data:", "about:"))][1:]

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True, "clip": clip})
        path.write_bytes(base64.b64decode(shot["data"]))


_REQUEST = "Network.requestWillBeSent"


@contextlib.contextmanager
def start(path: str, profile: Path) -> Iterator[Browser]:
    """Run a Chromium; it ends with the block."""
    pipes = [os.pipe(), os.pipe()]
    (read_commands, commands), (answers, write_answers) = pipes
    theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (read_commands, write_answers)]
    for fd in (read_commands, write_answers):
        os.close(fd)
    arguments = [*_ARGUMENTS, f"--user-data-dir={profile}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    process = subprocess.Popen(
        [sys.executable, "-c", _RENUMBERED, *map(str, theirs), path, *arguments, "about:blank"],
        pass_fds=theirs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for fd in theirs:
        os.close(fd)
    browser = Browser(process, commands, answers)
    try:
        yield browser
        browser.call("Browser.close")
    finally:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for fd in (commands, answers):
            os.close(fd)

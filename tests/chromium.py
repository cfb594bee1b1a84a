"""A headless Chromium, driven through the pipe of its DevTools protocol. Nothing but the standard library is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# The browser reads commands from descriptor 3 and writes answers to descriptor 4.
_LAUNCH = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execvp(sys.argv[3], sys.argv[3:])"
_KEYS = {
    "ArrowRight": 39, "ArrowLeft": 37, "ArrowUp": 38, "ArrowDown": 40, "Enter": 13, "Escape": 27, "Home": 36, "End": 35, "Tab": 9,
}  # fmt: skip


def program() -> str | None:
    """Where Chromium is, if it is installed and can be driven."""
    if sys.platform == "win32":
        return None
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Chromium:
    """One browser with one tab. What the tab asks for and complains of is noted."""

    def __init__(self, path: str, home: Path) -> None:
        import fcntl

        to_browser, from_browser = os.pipe(), os.pipe()
        options = (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={home}", "--remote-debugging-pipe", "about:blank",
        )  # fmt: skip
        ends = to_browser[0], from_browser[1]
        # Moved out of the way first: the descriptors may be 3 and 4 themselves.
        free = tuple(fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in ends)
        command = [sys.executable, "-c", _LAUNCH, str(free[0]), str(free[1]), path, *options]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, pass_fds=free, stdin=quiet, stdout=quiet, stderr=quiet)
        for end in (*ends, *free):
            with contextlib.suppress(OSError):
                os.close(end)
        self._out, self._in = to_browser[1], from_browser[0]
        self._buffer, self._waiting, self._number = b"", deque[Any](), 0
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self._call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._call("Browser.close", {})
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._out)
        os.close(self._in)

    # -- what tests do

    def open(self, address: str, wide: int = 1280, tall: int = 900, scheme: str = "light") -> None:
        self.requests.clear()
        self.complaints.clear()
        size = {"width": wide, "height": tall, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", size)
        self.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        self._waiting.clear()
        self.call("Page.navigate", {"url": address})
        self._until("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", {"expression": script, "returnByValue": True, "awaitPromise": True})
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, *keys: str) -> None:
        for key in keys:
            event = {"key": key, "windowsVirtualKeyCode": _KEYS.get(key, ord(key[0].upper()))}
            text = {"text": "\r" if key == "Enter" else key} if key == "Enter" or len(key) == 1 else {}
            self.call("Input.dispatchKeyEvent", {"type": "keyDown", **event, **text})
            self.call("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    def click(self, selector: str) -> None:
        box = self.run(f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
                       " return [b.left + b.width / 2, b.top + b.height / 2]; })()")  # fmt: skip
        for kind in ("mousePressed", "mouseReleased"):
            place = {"x": box[0], "y": box[1], "button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", {"type": kind, **place})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", {"format": "png"})["data"]))

    # -- the protocol

    def call(self, method: str, parameters: dict[str, Any] | None = None) -> Any:
        return self._call(method, parameters or {}, sessionId=self._session)

    def _call(self, method: str, parameters: dict[str, Any], **more: Any) -> Any:
        self._number += 1
        number = self._number
        text = json.dumps({"id": number, "method": method, "params": parameters, **more})
        os.write(self._out, text.encode() + b"\0")
        until = time.monotonic() + 60
        while True:
            message = self._read(until)
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message}"
                return message["result"]
            self._note(message)
            self._waiting.append(message)

    def _until(self, event: str) -> None:
        until = time.monotonic() + 60
        while True:
            if self._waiting:
                message = self._waiting.popleft()
            else:
                message = self._read(until)
                self._note(message)
            if message.get("method") == event:
                return

    def _read(self, until: float) -> Any:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise TimeoutError("Chromium does not answer")
            part = os.read(self._in, 1 << 20)
            if not part:
                raise RuntimeError("Chromium is gone")
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def _note(self, message: Any) -> None:
        method, found = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(found["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(found["exceptionDetails"]))
        elif method == "Log.entryAdded" and found["entry"]["level"] in ("error", "warning"):
            self.complaints.append(str(found["entry"]))
        elif method == "Runtime.consoleAPICalled" and found["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(found["args"]))

"""A page in a headless Chromium, driven over the pipe of its DevTools protocol.

Nothing but the browser is needed: no driver of its version, no package, no port.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--hide-scrollbars", "--disable-background-networking", "--disable-component-update",
    "--disable-extensions", "--remote-debugging-pipe", "--force-color-profile=srgb",
)  # fmt: skip
KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), " ": (32, " ")}  # code of the key, what it types
TIMEOUT = 60.0  # s, of one answer
GIVING_WAY = ("navigated or closed", "context was destroyed", "Cannot find context")


class PageGoneError(RuntimeError):
    """What was asked of a page that gave way to another one meanwhile."""


def find_chromium():
    """Return the path of the browser, None where there is none."""
    found = (shutil.which(name) for name in (os.environ.get("CHROMIUM", ""), *NAMES) if name)
    return next((path for path in found if path), None)


class Page:
    """One tab; everything it asks of a network and everything it complains of is kept."""

    def __init__(self, program, profile):
        commands, self._out = os.pipe()
        self._in, answers = os.pipe()
        for own in (self._out, self._in):
            os.set_inheritable(own, False)
        # the browser reads commands from 3 and answers on 4
        script = f'exec 3<&{commands} 4>&{answers}; exec "$0" "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", script, program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(commands, answers), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self._numbers, self._buffer, self._events = count(1), b"", []
        self.requests, self.complaints, self._session = [], [], None
        targets = self._call("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            self._call(f"{domain}.enable")

    def close(self):
        """End the browser."""
        try:
            self._session = None
            self._call("Browser.close")
            self._process.wait(10)
        except (OSError, TimeoutError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def open(self, path, width=1280, height=800):
        """Load a file into a window of a size, and forget what was asked before."""
        self.resize(width, height)
        self.requests.clear()
        self.complaints.clear()
        self._events.clear()
        self._call("Page.navigate", url=Path(path).resolve().as_uri())
        self._until("Page.loadEventFired")
        self.settle()

    def resize(self, width, height=800):
        """Set the size of the window [pixel of CSS]; a narrow one is that of a phone."""
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        self.settle()

    def emulate(self, media="", **features):
        """Show the page as on another medium, or to a reader with other wishes."""
        held = [{"name": n.replace("_", "-"), "value": v} for n, v in features.items()]
        self._call("Emulation.setEmulatedMedia", media=media, features=held)

    def settle(self):
        """Wait until everything that was asked is drawn; a page that has given way is."""
        with suppress(PageGoneError):
            self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)))")

    def run(self, script):
        """Return the value of an expression of JavaScript."""
        answer = self._call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def click(self, selector):
        """Click into the middle of an element."""
        x, y = self.run(f"""(() => {{
            const shown = document.querySelector({json.dumps(selector)});
            shown.scrollIntoView({{block: "center", inline: "center", behavior: "instant"}});
            const box = shown.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2]; }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            self._call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )
        self.settle()

    def press(self, key):
        """Press a key where the focus is."""
        code, text = KEYS[key]
        held = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
        self._call(
            "Input.dispatchKeyEvent", type="keyDown", **held, **({"text": text} if text else {})
        )
        self._call("Input.dispatchKeyEvent", type="keyUp", **held)
        self.settle()

    def named(self):
        """Return role and accessible name of everything that a screen reader meets."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node.get("ignored")
        ]

    def screenshot(self, path):
        """Write what the window shows as PNG."""
        answer = self._call("Page.captureScreenshot", format="png")
        Path(path).write_bytes(base64.b64decode(answer["data"]))

    def printed(self):
        """Return the page as PDF."""
        return base64.b64decode(self._call("Page.printToPDF", preferCSSPageSize=True)["data"])

    def _call(self, method, **params):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                if "error" in answer:
                    said = answer["error"]["message"]
                    gone = any(word in said for word in GIVING_WAY)
                    raise (PageGoneError if gone else RuntimeError)(f"{method}: {said}")
                return answer["result"]

    def _until(self, event):
        while event not in self._events:
            self._next()

    def _next(self):
        """Return the next message; keep what it tells of requests and complaints."""
        deadline = time.monotonic() + TIMEOUT
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(self._in, 1 << 16) if ready else b""
            if not part:
                raise TimeoutError("the browser does not answer")
            self._buffer += part
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(raw)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method, params):
        self._events.append(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        if method == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"]["text"])
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(str(params["args"]))
        if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])

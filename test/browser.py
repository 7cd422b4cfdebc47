# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, driven over the WebDriver protocol."""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

OPTIONS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,1000"]
KEYS = {"right": "\ue014", "left": "\ue012", "end": "\ue010"}


class Browser:
    """Skips the test where Debian's chromium and chromium-driver are not installed."""

    def __enter__(self):
        driver = shutil.which("chromedriver")
        if not driver or not shutil.which("chromium"):
            pytest.skip("needs Chromium: apt-get install chromium chromium-driver")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL)
        self._base = f"http://127.0.0.1:{port}"
        self._wait_for_driver()
        chrome = {"goog:chromeOptions": {"args": OPTIONS}, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": chrome}})
        self._base += f"/session/{session['sessionId']}"
        return self

    def __exit__(self, *_):
        with contextlib.suppress(urllib.error.URLError):
            self._call("DELETE", "")
        self._process.terminate()
        self._process.wait(20)

    def open(self, path):
        self._call("POST", "/url", {"url": path.as_uri()})

    def run(self, script):
        """What a piece of JavaScript returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": []})

    def press(self, key):
        keys = [{"type": "keyDown", "value": KEYS[key]}, {"type": "keyUp", "value": KEYS[key]}]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": keys}]})

    def resize(self, width, height=1000):
        self._call("POST", "/window/rect", {"width": width, "height": height})

    def wait(self, script, timeout=60):
        until = time.monotonic() + timeout
        while not self.run(f"return {script}"):
            assert time.monotonic() < until, f"{script}; console: {self.console()}"
            time.sleep(0.05)

    def console(self):
        return [f"{entry['level']}: {entry['message']}" for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def _wait_for_driver(self):
        until = time.monotonic() + 60
        while True:
            try:
                if self._call("GET", "/status")["ready"]:
                    return
            except urllib.error.URLError:
                assert time.monotonic() < until
            time.sleep(0.1)

    def _call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

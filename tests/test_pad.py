"""The pad of a page in a real browser: what is touched is what sounds."""

import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import pytest
import torch

from wavenet_ae import audio, page

DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--autoplay-policy=no-user-gesture-required",
    "--window-size=1000,1200",
]

pytestmark = pytest.mark.skipif(not (DRIVER and BROWSER), reason="chromium and chromedriver are not installed")


@pytest.fixture
def browser():
    """Ask a browser by WebDriver: `browser("POST", "url", {"url": ...})`."""
    with subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            line = next(line for line in process.stdout if "successfully on port" in line)
            port = int(line.rstrip(". \n").rsplit(" ", 1)[1])
            options = {"binary": BROWSER, "args": OPTIONS}
            capabilities = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
            session = ask(port, "POST", "", capabilities)["sessionId"]
            yield lambda method, path, body=None: ask(port, method, f"/{session}/{path}", body)
            with contextlib.suppress(urllib.error.URLError):
                ask(port, "DELETE", f"/{session}")
        finally:
            process.terminate()
            process.stdout.close()


def ask(port, method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/session{path}", data, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["value"]


def test_the_nearest_sound_is_played_by_touch_drag_keys_and_key_of_the_keyboard(browser, tmp_path):
    places = {key: [[f"{key} ü/{r}_{c}.wav" for c in range(3)] for r in range(3)] for key in ("60", "62")}
    for name in (name for square in places.values() for row in square for name in row):
        audio.write(tmp_path / name, 0.1 * torch.rand(8000))
    squares = {key: [[tmp_path / name for name in row] for row in square] for key, square in places.items()}
    pad = page.Pad("Between", ("a <b>", "b", "c", "d"), squares)
    page.write(tmp_path / "index.html", "A pad", [pad, page.Section("none", "")])
    browser("POST", "url", {"url": (tmp_path / "index.html").as_uri()})

    def run(script):
        return browser("POST", "execute/sync", {"script": script, "args": []})

    def plays(key, row, column):
        state = "return [document.querySelector('.pad').dataset.playing, [...document.querySelectorAll('.pad i')]"
        wanted = [f"{key}%20%C3%BC/{row}_{column}.wav", 3 * row + column]
        for _ in range(100):
            if run(f"{state}.findIndex(cell => cell.className === 'on')]") == wanted:
                return True
            time.sleep(0.05)
        return False

    box = run("const b = document.querySelector('.pad').getBoundingClientRect(); return [b.left, b.top, b.width]")

    def at(row, column):
        x, y = (round(box[n] + box[2] * (place + 0.5) / 3) for n, place in ((0, column), (1, row)))
        return {"type": "pointerMove", "duration": 0, "x": x, "y": y}

    def point(*steps):
        pointer = {"type": "pointer", "id": "mouse", "actions": list(steps)}
        browser("POST", "actions", {"actions": [pointer]})

    down, up = {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}
    point(at(0, 2), down)
    assert plays("60", 0, 2)
    point(at(2, 1))
    assert plays("60", 2, 1)
    point(up, at(0, 0))
    assert plays("60", 2, 1), "no button, no sound"
    run("document.querySelector('.pad').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowUp'}))")
    assert plays("60", 1, 1)
    run("const s = document.querySelector('select'); s.value = '62'; s.dispatchEvent(new Event('change'))")
    assert plays("62", 1, 1)
    run("document.querySelector('.pad').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))")
    run("document.querySelector('.pad').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))")
    assert plays("62", 1, 2), "the edge is the edge"
    assert run("return document.querySelector('.pad b').textContent") == "a <b>"

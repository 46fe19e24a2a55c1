"""The page's script in a real browser, where there is one: it runs without a complaint."""

import html
import json
import re
import shutil
import subprocess

import pytest
from pages import write_job

from eval import report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--virtual-time-budget=30000", "--dump-dom",
)  # fmt: skip

# Uses the page as a hand would, and leaves what it saw in an attribute.
DRIVER = """<script>
addEventListener("load", () => setTimeout(async () => {
  const seen = {};
  // Frames come when they come.
  async function until(isTrue) {
    for (let time = 0; time < 60 && !isTrue(); time++) {
      await new Promise((done) => setTimeout(done, 50));
    }
    return isTrue();
  }
  const canvas = document.getElementById("map-canvas");
  const tip = document.getElementById("map-tip");
  const box = canvas.getBoundingClientRect();
  const key = (name) => canvas.dispatchEvent(new KeyboardEvent("keydown", {key: name}));
  const picture = () => canvas.toDataURL();
  const first = picture();
  search: for (let y = 0; y < box.height; y += 8) for (let x = 0; x < box.width; x += 8) {
    canvas.dispatchEvent(new PointerEvent("pointermove",
      {clientX: box.left + x, clientY: box.top + y, pointerType: "mouse"}));
    if (!tip.hidden) break search;
  }
  seen.hovered = tip.querySelector(".id").textContent;
  seen.picture = !tip.querySelector("canvas").hidden;
  key("Escape");
  seen.escaped = tip.hidden;
  key("ArrowRight");
  key("ArrowLeft");
  seen.spoken = document.getElementById("map-live").textContent;
  key("Escape");
  seen.same = await until(() => picture() === first);
  key("+");
  seen.nearer = await until(() => picture() !== first);
  key("-");
  key("0");
  seen.back = await until(() => picture() === first);
  canvas.dispatchEvent(new WheelEvent("wheel", {deltaY: -400, cancelable: true}));
  seen.zoomed = canvas.classList.contains("zoomed") && await until(() => picture() !== first);
  document.querySelector("[data-zoom=all]").click();
  seen.reset = await until(() => picture() === first);
  const box0 = document.querySelector("[data-kind='0']");
  box0.click();
  seen.hidden = await until(() => picture() !== first);
  const column = () => [...document.querySelectorAll(".sortable tbody tr")]
    .map((row) => row.cells[0].textContent);
  const button = document.querySelector(".sortable th button");
  button.click();
  seen.rising = column();
  button.click();
  seen.falling = column();
  seen.sort = button.parentElement.getAttribute("aria-sort");
  document.body.dataset.seen = JSON.stringify(seen);
}, 200));
</script></body>"""


def look(path, profile):
    """Returns the document after its script has run, and what the console said."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is installed")
    command = [browser, *FLAGS, f"--user-data-dir={profile}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    console = re.findall(r"CONSOLE[^\n]*", done.stderr)
    return done.stdout, console


@pytest.fixture
def page(tmp_path):
    write_job(tmp_path)
    path = tmp_path / "page.html"
    report.write_job_report(results=str(tmp_path / "results.json"), output=str(path))
    return path


def test_script_runs_under_the_policy_of_the_page(page, tmp_path):
    document, console = look(page, tmp_path / "profile")
    assert console == []
    assert '<button type="button">Class</button>' in document
    assert re.findall(r'<option value="\d">(\d+)</option>', document) == ["0", "10", "20", "99"]
    assert "Demo &lt;script&gt;alert(1)&lt;/script&gt;" in document


def test_script_answers_mouse_keys_and_buttons(page, tmp_path):
    text = page.read_text()
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)[0]
    page.write_text(text.replace(policy, "").replace("</body>", DRIVER))
    document, console = look(page, tmp_path / "profile")
    assert console == []
    seen = json.loads(html.unescape(re.search(r'data-seen="([^"]*)"', document)[1]))
    assert re.fullmatch(r"id\d{3}", seen.pop("hovered"))
    assert re.fullmatch(r"id\d{3}, class \d+, (in the index|query.*)", seen.pop("spoken"))
    assert seen.pop("rising") == ["0", "10", "20"]
    assert seen.pop("falling") == ["20", "10", "0"]
    assert seen.pop("sort") == "descending"
    assert seen == dict.fromkeys(seen, True)

"""A headless Chromium, where there is one: how a page comes out, in a frame of a given width."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Measures the page from outside: its own rules let no script run.
HARNESS = """<!DOCTYPE html><body style="margin:0"><pre id="found"></pre>
<iframe id="page" src="{page}" style="width:{width}px;height:900px;border:0"></iframe>
<script>
document.getElementById("page").onload = () => {{
  const page = document.getElementById("page").contentDocument, root = page.documentElement;
  document.getElementById("found").textContent = JSON.stringify({{
    title: page.title, client: root.clientWidth, scroll: root.scrollWidth,
    scripts: page.querySelectorAll("script, img, iframe, svg").length,
    texts: [...page.querySelectorAll(".text")].map(t => t.textContent),
    wide: [...page.querySelectorAll(".text")].filter(t => t.scrollWidth > t.clientWidth).length,
    display: page.defaultView.getComputedStyle(page.body).display }});
}};
</script>"""


def find_browser() -> str | None:
    """The browser's path."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def look_at(browser: str, page: Path, width: int, folder: Path) -> dict[str, Any]:
    """Title, widths, elements and texts of the page once it has been loaded."""
    harness = folder / f"harness-{width}.html"
    harness.write_text(HARNESS.format(page=page.resolve().as_uri(), width=width))
    done = subprocess.run(
        [
            browser,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--allow-file-access-from-files", "--virtual-time-budget=5000"),
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width + 50},1000",
            "--dump-dom",
            harness.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stdout + done.stderr
    return json.loads(html.unescape(found[1]))

"""Fills the templates: everything is escaped, and the page may load nothing and run one script."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from typing import Any

import jinja2
import markupsafe

from eval.page import charts

_PARTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "parts")
_SCRIPTS = ("table.js", "map.js")
_LONGEST = 48  # characters of an id or a class that are shown
MARKERS = ("●", "■", "◆", "▲", "▼", "✚", "✖")  # those of `job_charts.MARKERS`


def render(values: dict[str, Any]) -> str:
    """Returns the page; all values are escaped, but for the charts, which hold no foreign text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PARTS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clip": clip, "json": embedded}
    script = "".join(_read(name) for name in _SCRIPTS)
    return environment.get_template("page.html.j2").render(
        style=markupsafe.Markup(_read("style.css")),  # noqa: S704, our own file
        script=markupsafe.Markup(script),  # noqa: S704, our own file
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        series={"count": charts.SERIES, "markers": MARKERS},
        **values,
    )


def clip(text: str) -> str:
    """Returns a text that is at most 48 characters long."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def embedded(value: Any) -> markupsafe.Markup:
    """Returns JSON for a `<script>` element, which nothing in it can end.

    The characters that HTML knows are written as JSON escapes, and the two line ends that old
    JavaScript did not allow in a text.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return markupsafe.Markup(text)  # noqa: S704, escaped above


def _read(name: str) -> str:
    with open(os.path.join(_PARTS, name), encoding="utf-8") as file:
        return file.read()

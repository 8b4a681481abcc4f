"""Figures as SVG and PNG, drawn by a Chromium that is on the machine.

Plotly draws in a browser. One headless Chromium opens one page, which holds every figure, draws
each to an SVG and a PNG, and writes both into its own document in base64; nothing is downloaded and
nothing listens. Plotly names the parts of an SVG with random numbers: the page gives it a generator
whose seed is the figure's name, so a second run writes the same bytes.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from interp.errors import InputError

NAMES = ("chromium", "chromium-browser", "google-chrome")
"""Programs that are looked for on the PATH."""
VARIABLE = "CHROMIUM"
"""The environment variable that names another."""
WIDTH, HEIGHT = 1200, 500
"""Pixels of a figure that sets no size; a PNG has twice as many each way."""
SECONDS = 120
"""How long the browser may take for all figures."""

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
FLAGS += ("--no-first-run", "--virtual-time-budget=60000", "--dump-dom")

PAGE = """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none';
 script-src 'unsafe-inline' file:; style-src 'unsafe-inline'; img-src data: blob:">
<body><script src="plotly.min.js"></script>
<script>
function seed(state) {  // mulberry32
  Math.random = () => {
    let t = (state = (state + 0x6d2b79f5) | 0);
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
function keep(name, format, words) {
  const kept = document.createElement("pre");
  kept.dataset.image = name + "." + format;
  kept.textContent = words;
  document.body.append(kept);
}
async function draw(each) {
  const size = {width: each.width, height: each.height, imageDataOnly: true};
  seed(each.seed);
  const svg = await Plotly.toImage(each.figure, {...size, format: "svg"});
  const bytes = new TextEncoder().encode(svg);
  keep(each.name, "svg", btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")));
  seed(each.seed);
  keep(each.name, "png", await Plotly.toImage(each.figure, {...size, format: "png", scale: 2}));
}
(async () => { for (const each of FIGURES) await draw(each); })();
</script>
"""


def find_chromium() -> str | None:
    """Return the program to draw with: what `CHROMIUM` names, else the first on the PATH.

    Raises:
        InputError: `CHROMIUM` names no program.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return next(filter(None, map(shutil.which, NAMES)), None)
    if found := shutil.which(named):
        return found
    raise InputError(
        f"{VARIABLE} is {named!r}, which is no program: give the path of a Chromium, or unset it "
        f"to look for {', '.join(NAMES)} on the PATH."
    )


def draw_images(
    figures: Mapping[str, go.Figure], folder: Path, chromium: str
) -> dict[str, dict[str, bytes]]:
    """Return each figure's images: by name of the figure, then `svg` and `png`.

    Args:
        figures: By name: letters, digits, `-`, `_` and `.`.
        folder: Where a temporary folder may be made; a packaged Chromium may not read `/tmp`.
        chromium: The program.

    Raises:
        InputError: the browser does not draw all of them.
    """
    if not figures:
        return {}
    with tempfile.TemporaryDirectory(dir=folder, prefix="drawing-") as place:
        page = Path(place) / "page.html"
        page.write_text(page_of(figures), encoding="utf-8")
        (Path(place) / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
        document = _opened(page, chromium)
    found = dict(re.findall(r'<pre data-image="([^"]*)">([A-Za-z0-9+/=]+)</pre>', document))
    images: dict[str, dict[str, bytes]] = {}
    for name in figures:
        if not {f"{name}.svg", f"{name}.png"} <= found.keys():
            raise InputError(
                f"{chromium} opened the figures and did not draw {name}: set {VARIABLE} to another "
                "browser."
            )
        images[name] = {kind: base64.b64decode(found[f"{name}.{kind}"]) for kind in ("svg", "png")}
    return images


def page_of(figures: Mapping[str, go.Figure]) -> str:
    """Return the page that draws figures into its own document, in `pre` elements."""
    entries = [
        {
            "name": name,
            "seed": zlib.crc32(name.encode()),
            "width": figure.layout.width or WIDTH,  # type: ignore[attr-defined]
            "height": figure.layout.height or HEIGHT,  # type: ignore[attr-defined]
            "figure": json.loads(figure.to_json() or "{}"),
        }
        for name, figure in figures.items()
    ]
    data = json.dumps(entries).replace("<", "\\u003c")  # a text must not end the script
    return PAGE.replace("FIGURES", data, 1)


def _opened(page: Path, chromium: str) -> str:
    """Open a page and return its document as it is when nothing is left to do.

    Raises:
        InputError: the browser cannot be started, fails or takes too long.
    """
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [chromium, *FLAGS, profile, page.absolute().as_uri()]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)
    except subprocess.TimeoutExpired as error:
        why: object = f"it took more than {SECONDS} s"
        raise _failed(chromium, why) from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise _failed(chromium, "".join(last) or f"exit status {error.returncode}") from error
    except OSError as error:
        raise _failed(chromium, error.strerror) from error
    return done.stdout.decode("utf-8", errors="replace")


def _failed(chromium: str, why: object) -> InputError:
    return InputError(f"{chromium} cannot draw ({why}): set {VARIABLE} to another browser.")

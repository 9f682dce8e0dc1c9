"""axe-core on the page that is open. It comes from npm once; after that nothing leaves the machine."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Literal

from playwright.sync_api import Page, ViewportSize

FOLDER = Path(__file__).parent
SERIOUS = ("serious", "critical")
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
SIZES: tuple[ViewportSize, ...] = ({"width": 1280, "height": 900}, {"width": 375, "height": 720})
# A dialog is transparent for two frames before the animation that shows it exists: its class tells.
STILL = """() => !document.querySelector("[class*='-enter-active'], [class*='-leave-active']")
  && document.getAnimations().every(each => each.effect.getComputedTiming().endTime === Infinity)"""

# The framework's colours and ours.
FOLLOWED = """scheme => document.documentElement.dataset.theme === scheme
  && (document.body.classList.contains("body--" + scheme) || !document.querySelector("#app"))"""


@cache
def axe() -> str:
    script = FOLDER / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=FOLDER, check=True, capture_output=True)
    return script.read_text()


def violations(page: Page) -> list[str]:
    """Rule and place of every serious violation, wide and narrow, light and dark. The page is left as it was, but
    for the backdrops of dialogs, which stay hidden."""
    before, was_dark = page.viewport_size, page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    found: list[str] = []
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(FOLLOWED, arg=scheme)
        for size in SIZES:
            page.set_viewport_size(size)
            found += [f"{scheme}, {size['width']} wide: {each}" for each in _found(page)]
    page.emulate_media(color_scheme="dark" if was_dark else "light")
    if before is not None:
        page.set_viewport_size(before)
    return found


def _found(page: Page) -> list[str]:
    """With the pointer away and transitions ended: axe cannot tell the colour under a button's glow, nor one that is
    halfway. It takes a dialog's backdrop for something above its buttons: it is hidden meanwhile."""
    page.mouse.move(0, 0)
    page.wait_for_function(STILL)
    page.evaluate(axe())
    page.add_style_tag(content=".q-dialog__backdrop { display: none !important; }")
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{item['id']}: {node['html'][:160]} {node['failureSummary'][:300]}"
        for item in found
        if item["impact"] in SERIOUS
        for node in item["nodes"]
    ]

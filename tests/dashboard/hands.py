"""How a visitor does what a page offers: by the mouse, or by the keyboard and nothing else."""

import re
from pathlib import Path
from typing import Protocol

from playwright.sync_api import Locator, Page, expect

MOST_TABS = 400  # until what can be reached is reached


class Hand(Protocol):
    def press(self, target: Locator) -> None:
        """A button or a link."""
        ...

    def fill(self, field: Locator, text: str) -> None:
        """In place of what stands in it."""
        ...

    def choose(self, field: Locator, option: str) -> None:
        """Of a list, the option that holds this text."""
        ...

    def upload(self, drop: Locator, path: Path) -> None:
        """By the browser's own dialog for files."""
        ...


class Mouse:
    def press(self, target: Locator) -> None:
        target.click()

    def fill(self, field: Locator, text: str) -> None:
        field.click(click_count=3)
        field.page.keyboard.press("Control+A")
        field.page.keyboard.type(text)

    def choose(self, field: Locator, option: str) -> None:
        field.click()
        field.page.get_by_role("option", name=re.compile(re.escape(option))).first.click()

    def upload(self, drop: Locator, path: Path) -> None:
        with drop.page.expect_file_chooser() as chosen:
            drop.locator("label").click()
        chosen.value.set_files(path)


class Keyboard:
    def press(self, target: Locator) -> None:
        self._reach(target)
        target.page.keyboard.press("Enter")

    def fill(self, field: Locator, text: str) -> None:
        self._reach(field)
        field.page.keyboard.press("Control+A")
        field.page.keyboard.type(text)

    def choose(self, field: Locator, option: str) -> None:
        self._reach(field)
        page = field.page
        page.keyboard.press("ArrowDown")
        options = page.get_by_role("listbox").get_by_role("option")
        expect(options.first).to_be_visible()
        for _ in range(options.count() + 1):
            marked = page.locator(".q-manual-focusable--focused")
            if marked.count() and option in marked.first.inner_text():
                break
            page.keyboard.press("ArrowDown")
        else:
            raise AssertionError(f"{option} cannot be reached: {options.all_inner_texts()}")
        page.keyboard.press("Enter")

    def upload(self, drop: Locator, path: Path) -> None:
        page = drop.page
        with page.expect_file_chooser() as chosen:
            self._reach(drop.locator("input"))
            page.keyboard.press("Enter")
        chosen.value.set_files(path)

    def _reach(self, target: Locator) -> None:
        """By Tab, as often as it takes."""
        expect(target).to_be_visible()
        expect(target).to_be_enabled()
        for _ in range(MOST_TABS):
            if target.evaluate("element => element === document.activeElement"):
                return
            target.page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not lead to {target}")


def wait_until_open(page: Page) -> None:
    page.wait_for_function("window.did_handshake === true")

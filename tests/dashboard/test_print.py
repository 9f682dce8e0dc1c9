"""What comes out of a printer: no menu and no buttons, light, and everything whole."""

import pytest
from playwright.sync_api import Browser, expect

from tests.dashboard.conftest import visit
from tests.dashboard.rows import finished_job, insert_curve, insert_jobs, organization_and_project
from tests.dashboard.stand import Stand

PAPER = 688  # CSS pixels of A4 between its margins
CUT_OFF = """(width) => [...document.querySelectorAll('#main *')].filter((each) => {
  const box = each.getBoundingClientRect(), is = getComputedStyle(each);
  const scrolls = ['auto', 'scroll', 'hidden'].includes(is.overflowY) && each.scrollHeight > each.clientHeight + 1;
  return box.height > 1 && box.width > 1 && (box.right > width + 1 || scrolls);
}).map((each) => each.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_job_is_printed_whole_and_light(browser: Browser, stand: Stand, scheme: str) -> None:
    organization, project = organization_and_project(stand.database)
    job = finished_job(project, organization, suffix="printed")
    insert_jobs(stand.database, [job])
    insert_curve(stand.database, job, 54)
    for visitor in visit(browser, stand.url, color_scheme=scheme):
        visitor.sign_in(stand.key)
        page = visitor.go(f"/jobs/{job.id}")
        expect(page.locator(".chart canvas")).to_have_count(2)
        page.emulate_media(media="print")
        page.set_viewport_size({"width": PAPER, "height": 990})
        assert page.locator(".navigation:visible, button:visible, a.button:visible").count() == 0
        colours = "getComputedStyle(document.querySelector('h1')).color"
        assert page.evaluate(colours) == "rgb(29, 35, 44)"
        assert page.locator(".numbers tbody tr").first.is_visible()  # though nobody has opened it
        assert page.evaluate(CUT_OFF, PAPER) == []
        page.emulate_media(media="screen")

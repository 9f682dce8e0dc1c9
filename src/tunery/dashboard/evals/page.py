"""Evaluations, the newest first, each with its latest run. Apart because a page has a file, however short."""

import asyncio
from typing import Any

from tunery.dashboard.components import blocks, html
from tunery.dashboard.components.table import Column, Page, PagedTable, Row
from tunery.dashboard.evals.parts import PATH, standing
from tunery.dashboard.visit import BASE, Visit

PAGE = 20


async def build(visit: Visit) -> None:
    t = visit.t
    page = EvalsPage(visit)
    first = await page.fetch()
    new = html.button_link(f"{BASE}/evals/new", t("evals.new"), primary=True, symbol="add")
    blocks.heading(t("evals.title"), t("evals.subtitle"), actions=new if first[0] else "")
    if not first[0]:
        blocks.empty("rule", t("evals.empty"), t("evals.empty_text"), action=new)
        return
    columns = [
        Column(t("evals.name"), wide=True),
        Column(t("evals.criteria")),
        Column(t("evals.latest")),
        Column(t("evals.passed"), numeric=True),
        Column(t("jobs.created")),
    ]
    PagedTable(visit, t("evals.title"), columns, first, page.fetch)


class EvalsPage:
    def __init__(self, visit: Visit) -> None:
        self.visit, self.t = visit, visit.t

    async def fetch(self, after: str = "") -> Page:
        get = self.visit.connection.get
        page = await get(PATH, order="desc", after=after, limit=PAGE)
        runs = await asyncio.gather(*(get(f"{PATH}/{each['id']}/runs", order="desc", limit=1) for each in page["data"]))
        rows = [self.row(each, of_it["data"]) for each, of_it in zip(page["data"], runs, strict=True)]
        return rows, page["has_more"]

    def row(self, evaluation: dict[str, Any], latest: list[dict[str, Any]]) -> Row:
        t = self.t
        kinds = dict.fromkeys(t.named("grader", each["type"]) for each in evaluation["testing_criteria"])
        state = passed = html.DASH
        if latest:
            (run,) = latest
            state = html.two_lines(html.status_chip(run["status"], t), html.model_name(run["model"]))
            passed = standing(run, t)
        link = html.link(f"{BASE}/evals/{evaluation['id']}", html.model_name(evaluation["name"] or evaluation["id"]))
        cells = [html.two_lines(link, evaluation["id"]), ", ".join(kinds), state, passed]
        return Row(evaluation["id"], [*cells, html.when(evaluation["created_at"], t)])

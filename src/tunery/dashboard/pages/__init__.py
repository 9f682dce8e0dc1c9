"""One module a page. `PAGES` is the map of the dashboard: address, title, place in the navigation."""

from tunery.dashboard.pages import (
    audit,
    compare,
    comparison,
    create,
    dataset,
    datasets,
    job,
    jobs,
    keys,
    limits,
    mail,
    members,
    move,
    parity,
    playground,
    usage,
    webhooks,
)
from tunery.dashboard.pages.spec import PageSpec

PAGES = (
    PageSpec("/", "jobs.title", jobs.build, section="jobs"),
    PageSpec("/jobs/new", "create.title", create.build, section="jobs"),
    PageSpec("/jobs/{job_id}", "job.title", job.build, section="jobs"),
    PageSpec("/playground", "playground.title", playground.build, section="playground"),
    PageSpec("/datasets", "datasets.title", datasets.build, section="datasets"),
    PageSpec("/datasets/{file_id}", "dataset.title", dataset.build, section="datasets"),
    PageSpec("/compare", "compare.title", compare.build, section="compare"),
    PageSpec("/compare/{file_id}", "compare.title", comparison.build, section="compare"),
    PageSpec("/move", "move.title", move.build, section="move"),
    PageSpec("/move/{file_id}", "move.report", parity.build, section="move"),
    PageSpec("/usage", "usage.title", usage.build, section="usage"),
    PageSpec("/keys", "keys.title", keys.build, section="keys"),
    PageSpec("/webhooks", "webhooks.title", webhooks.build, section="webhooks"),
    PageSpec("/mail", "mails.title", mail.build, section="mail"),
    PageSpec("/members", "members.title", members.build, section="members"),
    PageSpec("/limits", "limits.title", limits.build, section="limits"),
    PageSpec("/audit", "audit.title", audit.build, section="audit"),
)

__all__ = ["PAGES", "PageSpec"]

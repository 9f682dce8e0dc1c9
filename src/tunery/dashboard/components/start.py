"""What a newcomer sees: three steps to a first model, with an example dataset that comes with the product."""

from markupsafe import Markup

from tunery.dashboard.components import blocks, html
from tunery.dashboard.visit import BASE
from tunery.texts import Translator


def first_steps(t: Translator) -> None:
    use_example = Markup(
        '<form method="post" action="{}/example"><button class="button primary" type="submit">{}</button></form>'
    ).format(BASE, t("start.use_example"))
    blocks.steps(
        [
            (t("start.data"), t("start.data_text"), use_example + html.button_link(f"{BASE}/datasets", t("start.own"))),
            (t("start.job"), t("start.job_text"), html.button_link(f"{BASE}/jobs/new", t("jobs.create"))),
            (t("start.chat"), t("start.chat_text"), html.button_link(f"{BASE}/playground", t("nav.playground"))),
        ]
    )

import csv
import io
from typing import Any

import pytest

from tests.api.conftest import BASE, NOW, Api
from tunery.domain.tenants import Caller, Role
from tunery.domain.usage import TokenUsage
from tunery.metering.ledger import RequestIds, record_completion, record_training
from tunery.store.database import write

USAGE, COSTS = "/v1/organization/usage/completions", "/v1/organization/costs"
DAY_S = 86_400
TODAY = int(NOW) // DAY_S * DAY_S
TUNED = f"ft:{BASE}:personal::AbCd1234"


def use(api: Api, model: str = BASE, *, at: float = NOW, key: str = "key_a", number: int = 1, **tokens: int) -> None:
    caller = Caller(key, api.organization_id, api.project_id, "user_a", Role.MEMBER)
    usage = TokenUsage(**{"input_tokens": 100, "cached_tokens": 20, "output_tokens": 10} | tokens)
    with write(api.engine) as conn:
        for index in range(number):
            ids = RequestIds(f"req_{key}_{model}_{at}_{index}")
            record_completion(conn, caller, ids, prices=api.context.prices, model=model, usage=usage, now=at)


def buckets(api: Api, path: str, **params: Any) -> list[dict]:
    answer = api.client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def test_usage_is_summed_by_day_with_empty_days_between(api: Api) -> None:
    use(api, number=2)
    use(api, at=NOW - 2 * DAY_S)
    found = buckets(api, USAGE, start_time=TODAY - 2 * DAY_S)
    assert [len(bucket["results"]) for bucket in found] == [1, 0, 1]
    assert found[-1]["start_time"] == TODAY and found[-1]["end_time"] == TODAY + DAY_S
    (result,) = found[-1]["results"]
    numbers = ("num_model_requests", "input_tokens", "input_cached_tokens", "input_uncached_tokens", "output_tokens")
    assert [result[name] for name in numbers] == [2, 200, 40, 160, 20]
    assert result["object"] == "organization.usage.completions.result" and result["model"] is None


def test_usage_is_grouped_and_filtered(api: Api) -> None:
    use(api, BASE)
    use(api, TUNED, key="key_b", number=3)
    (today,) = buckets(api, USAGE, start_time=TODAY, **{"group_by[]": ["model", "api_key_id", "service_tier"]})
    found = {(each["model"], each["api_key_id"]): each for each in today["results"]}
    assert found[(TUNED, "key_b")]["num_model_requests"] == 3
    assert found[(BASE, "key_a")]["service_tier"] == "default"
    (today,) = buckets(api, USAGE, start_time=TODAY, **{"models[]": TUNED})
    assert today["results"][0]["num_model_requests"] == 3
    (today,) = buckets(api, USAGE, start_time=TODAY, batch="true")
    assert today["results"] == []


@pytest.mark.parametrize(("width", "seconds"), [("1m", 60), ("1h", 3600)])
def test_usage_by_minute_and_hour(api: Api, width: str, seconds: int) -> None:
    use(api, at=NOW)
    use(api, at=NOW - seconds)
    start = int(NOW) - 3 * seconds
    found = buckets(api, USAGE, start_time=start, bucket_width=width)
    assert [len(bucket["results"]) for bucket in found] == [0, 0, 1, 1]
    assert all(bucket["end_time"] - bucket["start_time"] == seconds for bucket in found)


def test_pages_of_buckets_lead_to_now(api: Api) -> None:
    use(api, at=NOW - 9 * DAY_S)
    use(api)
    seen, page = [], None
    while True:
        params = {"start_time": TODAY - 9 * DAY_S, "limit": 4} | ({"page": page} if page else {})
        answer = api.client.get(USAGE, params=params).json()
        seen += answer["data"]
        if not answer["has_more"]:
            assert answer["next_page"] is None
            break
        page = answer["next_page"]
    assert [bucket["start_time"] for bucket in seen] == [TODAY - day * DAY_S for day in range(9, -1, -1)]
    assert sum(len(bucket["results"]) for bucket in seen) == 2


def test_an_unknown_page_and_no_limit_give_no_buckets(api: Api) -> None:
    for params in ({"page": "nonsense"}, {"limit": 0}):
        answer = api.client.get(USAGE, params={"start_time": 0, **params}).json()
        assert (answer["data"], answer["has_more"], answer["next_page"]) == ([], False, None)


def test_start_time_is_required(api: Api) -> None:
    refused = api.client.get(USAGE)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "start_time"


def test_costs_by_line_item_use_the_tuned_and_the_cached_price(api: Api) -> None:
    use(api, TUNED, input_tokens=1_000_000, cached_tokens=400_000, output_tokens=1_000_000)
    (today,) = buckets(api, COSTS, start_time=TODAY, **{"group_by[]": "line_item"})
    found = {each["line_item"]: (each["amount"]["value"], each["quantity"]) for each in today["results"]}
    assert found == {
        f"{TUNED}, input_tokens": (0.18, 600_000),
        f"{TUNED}, cached_input_tokens": (0.06, 400_000),
        f"{TUNED}, output_tokens": (1.2, 1_000_000),
    }
    assert today["results"][0]["amount"]["currency"] == "usd"


def test_training_is_a_cost_and_no_completion(api: Api) -> None:
    job = api.make_job()
    with write(api.engine) as conn:
        record_training(conn, job, prices=api.context.prices, trained_tokens=2_000_000, now=NOW)
    (today,) = buckets(api, COSTS, start_time=TODAY, **{"group_by[]": "line_item"})
    (line,) = today["results"]
    assert (line["line_item"], line["amount"]["value"]) == (f"{BASE}, training_tokens", 6.0)
    (today,) = buckets(api, USAGE, start_time=TODAY)
    assert today["results"] == []


def test_costs_of_one_line_item_by_project(api: Api) -> None:
    use(api, TUNED, input_tokens=1_000_000, cached_tokens=0, output_tokens=1_000_000)
    use(api, TUNED, key="key_b", input_tokens=1_000_000, cached_tokens=0, output_tokens=1_000_000)
    params = {"group_by[]": "project_id", "line_items[]": f"{TUNED}, output_tokens"}
    (today,) = buckets(api, COSTS, start_time=TODAY, **params)
    (result,) = today["results"]
    assert (result["project_id"], result["amount"]["value"], result["line_item"]) == (api.project_id, 2.4, None)


def test_another_organisation_sees_none_of_it(api: Api) -> None:
    use(api)
    headers = api.as_key(api.make_stranger(is_admin=True))
    for path in (USAGE, COSTS):
        answer = api.client.get(path, params={"start_time": TODAY}, headers=headers).json()
        assert [bucket["results"] for bucket in answer["data"]] == [[]]


def rows_of(api: Api, name: str) -> list[dict[str, str]]:
    answer = api.client.get(f"/tunery/v1/organization/{name}", params={"start_time": TODAY - DAY_S})
    assert answer.headers["content-type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_the_csv_of_usage(api: Api) -> None:
    use(api, TUNED, number=2)
    (row,) = rows_of(api, "usage.csv")
    assert (row["model"], row["num_model_requests"], row["input_tokens"]) == (TUNED, "2", "200")
    assert row["day"] == "2027-01-15"


def test_the_csv_of_costs_is_exact(api: Api) -> None:
    use(api, TUNED, input_tokens=1, cached_tokens=0, output_tokens=0, number=3)
    (row,) = rows_of(api, "costs.csv")
    assert (row["line_item"], row["tokens"], row["amount"]) == (f"{TUNED}, input_tokens", "3", "0.0000009")


def test_a_cell_that_a_spreadsheet_would_run_is_defused(api: Api) -> None:
    use(api, "=cmd|' /C calc'!A0")
    (row,) = rows_of(api, "usage.csv")
    assert row["model"].startswith("'=")


def test_a_month_is_forecast_from_a_week_of_days_and_not_before(api: Api) -> None:
    path = f"/tunery/v1/organization/projects/{api.project_id}/spending"
    limits = f"/tunery/v1/organization/projects/{api.project_id}/limits"
    for days in range(7):
        use(api, at=NOW - days * DAY_S, number=1 + days % 2)
    young = api.client.get(path).json()
    assert (young["known_days"], young["needed_days"], young["forecast"]) == (6, 7, None) and young["budget"] is None
    use(api, at=NOW - 7 * DAY_S)
    api.client.post(limits, json={"monthly_budget": 2_500_000})
    known = api.client.get(path).json()
    assert known["known_days"] == 7 and known["budget"] == 2.5
    assert known["spent"] == pytest.approx(sum(day["amount"] for day in known["days"])) and known["spent"] > 0
    forecast, left = known["forecast"], (known["end_time"] - int(NOW)) / DAY_S
    a_day = (
        sum(bucket["results"][0]["amount"]["value"] for bucket in buckets(api, COSTS, start_time=TODAY - 7 * DAY_S)[:7])
        / 7
    )
    assert forecast["mean"] == pytest.approx(known["spent"] + left * a_day)
    assert known["spent"] < forecast["low"] < forecast["mean"] < forecast["high"]
    assert api.client.get(path.replace(api.project_id, "proj_none")).status_code == 404

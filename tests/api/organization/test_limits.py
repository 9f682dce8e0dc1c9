from tests.api.conftest import Api

PROJECT = "/v1/organization/projects/{}"
OURS = "/tunery/v1/organization/projects/{}"


def test_limits_of_a_project_stand_over_the_settings(make_api) -> None:
    api: Api = make_api(requests_per_minute=100, max_jobs_per_day=7)
    path = OURS.format(api.project_id) + "/limits"
    first = api.client.get(path).json()
    assert first["own"]["requests_per_minute"] is None and first["effective"]["requests_per_minute"] == 100
    changed = api.client.post(path, json={"requests_per_minute": 5, "monthly_budget": 2_000_000}).json()
    assert changed["effective"]["requests_per_minute"] == 5 and changed["effective"]["max_jobs_per_day"] == 7
    assert (changed["own"]["monthly_budget"], changed["spent_this_month"], changed["currency"]) == (2_000_000, 0, "usd")
    back = api.client.post(path, json={"requests_per_minute": None}).json()
    assert back["effective"]["requests_per_minute"] == 100 and back["own"]["monthly_budget"] == 2_000_000


def test_negative_limits_are_refused(api: Api) -> None:
    refused = api.client.post(OURS.format(api.project_id) + "/limits", json={"tokens_per_minute": -1})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "tokens_per_minute"


def test_openais_rate_limits_are_the_same_numbers(api: Api) -> None:
    path = PROJECT.format(api.project_id) + "/rate_limits"
    (limit,) = api.client.get(path).json()["data"]
    assert limit["max_requests_per_1_minute"] == 1_000_000_000, "no limit"
    changed = api.client.post(f"{path}/{limit['id']}", json={"max_requests_per_1_minute": 3}).json()
    assert changed["max_requests_per_1_minute"] == 3
    ours = api.client.get(OURS.format(api.project_id) + "/limits").json()
    assert ours["own"]["requests_per_minute"] == 3
    assert api.client.post(f"{path}/rl-unknown", json={}).status_code == 404


def test_openais_spend_limit_is_the_budget_in_cents(api: Api) -> None:
    path = PROJECT.format(api.project_id) + "/spend_limit"
    assert api.client.get(path).status_code == 404
    body = {"currency": "USD", "interval": "month", "threshold_amount": 250}
    made = api.client.post(path, json=body).json()
    assert made["threshold_amount"] == 250 and made["enforcement"]["status"] == "inactive"
    assert api.client.get(OURS.format(api.project_id) + "/limits").json()["own"]["monthly_budget"] == 2_500_000
    assert api.client.post(path, json=body | {"currency": "EUR"}).status_code == 400
    assert api.client.delete(path).json()["deleted"] is True
    assert api.client.get(path).status_code == 404


def test_a_key_has_limits_of_its_own(api: Api) -> None:
    accounts = PROJECT.format(api.project_id) + "/service_accounts"
    key = api.client.post(accounts, json={"name": "ci"}).json()["api_key"]
    path = OURS.format(api.project_id) + f"/api_keys/{key['id']}/limits"
    assert api.client.get(path).json()["requests_per_minute"] is None
    assert api.client.post(path, json={"requests_per_minute": 2}).json()["requests_per_minute"] == 2
    assert api.client.get(path).json()["requests_per_minute"] == 2
    assert api.client.get(OURS.format(api.make_project()) + f"/api_keys/{key['id']}/limits").status_code == 404

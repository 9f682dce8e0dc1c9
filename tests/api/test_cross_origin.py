"""Which pages may call the API from a browser."""

import pytest

from tests.api.conftest import SECRET
from tunery.settings import SettingsError, load_settings

PAGE, OTHER = "https://app.example.com", "https://app.example.com.evil.example"
ASKS = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}
ALLOWED = "access-control-allow-origin"


def test_no_page_by_default(make_api) -> None:
    api = make_api()
    assert api.client.options("/v1/responses", headers={"origin": PAGE, **ASKS}).status_code == 405
    answer = api.client.get("/v1/models", headers={"origin": PAGE, **api.as_key(SECRET)})
    assert answer.status_code == 200
    assert ALLOWED not in answer.headers


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions", "/v1/files", "/tunery/v1/jobs/x"])
def test_an_allowed_page_may_send_its_key_and_read_what_comes(make_api, path: str) -> None:
    api = make_api(cors_origins=[PAGE])
    asked = api.client.options(path, headers={"origin": PAGE, **ASKS})
    assert asked.status_code == 200
    assert asked.headers[ALLOWED] == PAGE
    assert "x-stainless-os" in asked.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in asked.headers
    # Errors too: without the header a client would see "network error" and not which.
    for headers in ({}, api.as_key(SECRET)):
        answer = api.client.get(f"{path}/nothing", headers={"origin": PAGE, **headers})
        assert answer.status_code in (401, 404)
        assert answer.headers[ALLOWED] == PAGE
        assert answer.headers["access-control-expose-headers"] == "*"


@pytest.mark.parametrize("origin", [OTHER, "http://app.example.com", "https://app.example.com:8443", "null", ""])
def test_other_pages_may_not(make_api, origin: str) -> None:
    api = make_api(cors_origins=[PAGE, "http://localhost:3000"])
    asked = api.client.options("/v1/responses", headers={"origin": origin, **ASKS})
    assert ALLOWED not in asked.headers
    assert ALLOWED not in api.client.get("/v1/models", headers={"origin": origin, **api.as_key(SECRET)}).headers


@pytest.mark.parametrize("origin", ["app.example.com", "https://app.example.com/", "https://*.example.com", "null"])
def test_what_is_no_origin_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    monkeypatch.setenv("TUNERY_CORS_ORIGINS", f"http://localhost:3000,{origin}")
    with pytest.raises(SettingsError, match="cors_origins"):
        load_settings()

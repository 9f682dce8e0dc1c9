import threading
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from tests.metering.conftest import TUNED, Clock, MakeJob, MakeMeter, ids
from tests.rows import notices
from tests.store.conftest import NOW, Tenant
from tunery.domain.errors import RateLimited
from tunery.domain.limits import Bucket, Limits
from tunery.domain.tenants import Caller
from tunery.domain.usage import TokenUsage
from tunery.metering import limits
from tunery.metering.meter import Meter
from tunery.metering.rates import duration
from tunery.store.database import read, write
from tunery.store.limits import set_limits
from tunery.store.usage import spent_since
from tunery.texts import translator


def restrict(database: Engine, subject_id: str, **values: int) -> None:
    with write(database) as conn:
        set_limits(conn, subject_id, Limits(**values), NOW)


def refused(meter: Meter, caller: Caller, number: int = 99, tokens: int = 0) -> RateLimited:
    with pytest.raises(RateLimited) as caught:
        meter.open_request(caller, ids(number), model=TUNED, estimated_tokens=tokens)
    return caught.value


def test_a_bucket_fills_at_the_limits_rate_and_no_further() -> None:
    empty = Bucket(0, NOW)
    assert empty.filled(60, NOW + 1).left == 1
    assert empty.filled(60, NOW + 3600).left == 60
    assert empty.seconds_until(30, 60) == 30


def test_a_clock_that_steps_back_neither_fills_nor_empties_a_bucket() -> None:
    bucket = Bucket(5, NOW).filled(60, NOW - 1000)
    assert bucket == Bucket(5, NOW)
    assert bucket.filled(60, NOW + 1).left == 6


def test_without_limits_there_are_no_headers(caller: Caller, make_meter: MakeMeter) -> None:
    assert make_meter().open_request(caller, ids(1), model=TUNED).headers == {}


def test_requests_a_minute(caller: Caller, make_meter: MakeMeter, clock: Clock) -> None:
    meter = make_meter(requests_per_minute=2)
    first = meter.open_request(caller, ids(1), model=TUNED)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    meter.open_request(caller, ids(2), model=TUNED)
    error = refused(meter, caller)
    assert (error.status, error.type, error.code) == (429, "requests", "rate_limit_exceeded")
    assert f"Rate limit reached for {TUNED} in organization" in error.message
    assert "on requests per min (RPM): Limit 2, Used 2, Requested 1" in error.message
    assert error.headers["retry-after"] == "31" and error.headers["x-ratelimit-remaining-requests"] == "0"
    clock.now += 30
    meter.open_request(caller, ids(3), model=TUNED)


def test_tokens_a_minute_are_taken_ahead_and_corrected(caller: Caller, make_meter: MakeMeter) -> None:
    meter = make_meter(tokens_per_minute=1000)
    admission = meter.open_request(caller, ids(1), model=TUNED, estimated_tokens=900)
    assert admission.headers["x-ratelimit-remaining-tokens"] == "100"
    assert refused(meter, caller, tokens=200).type == "tokens"
    meter.settle(admission, model=TUNED, usage=TokenUsage(input_tokens=250, output_tokens=50))
    again = meter.open_request(caller, ids(2), model=TUNED, estimated_tokens=200)
    assert again.headers["x-ratelimit-remaining-tokens"] == "500"


def test_an_answer_longer_than_expected_is_paid_for_by_waiting(
    caller: Caller, make_meter: MakeMeter, clock: Clock
) -> None:
    meter = make_meter(tokens_per_minute=60)
    admission = meter.open_request(caller, ids(1), model=TUNED, estimated_tokens=10)
    meter.settle(admission, model=TUNED, usage=TokenUsage(input_tokens=10, output_tokens=60))
    clock.now += 9
    refused(meter, caller, tokens=1)
    clock.now += 3
    meter.open_request(caller, ids(2), model=TUNED, estimated_tokens=1)


def test_a_request_that_never_fits_is_not_to_be_repeated(caller: Caller, make_meter: MakeMeter) -> None:
    error = refused(make_meter(tokens_per_minute=100), caller, tokens=101)
    assert "Request too large" in error.message and error.headers["x-should-retry"] == "false"


def test_a_refused_request_takes_nothing(caller: Caller, make_meter: MakeMeter) -> None:
    meter = make_meter(requests_per_minute=2, tokens_per_minute=100)
    for _ in range(5):
        refused(meter, caller, tokens=101)
    admission = meter.open_request(caller, ids(1), model=TUNED, estimated_tokens=100)
    assert admission.headers["x-ratelimit-remaining-requests"] == "1"


def test_an_abandoned_request_gives_its_tokens_back(caller: Caller, make_meter: MakeMeter) -> None:
    meter = make_meter(tokens_per_minute=100)
    meter.abandon(meter.open_request(caller, ids(1), model=TUNED, estimated_tokens=100))
    again = meter.open_request(caller, ids(2), model=TUNED, estimated_tokens=100)
    assert again.headers["x-ratelimit-remaining-tokens"] == "0"


def test_a_key_has_its_own_limit_beside_the_projects(
    database: Engine, tenant: Tenant, caller: Caller, make_meter: MakeMeter
) -> None:
    restrict(database, tenant.project_id, requests_per_minute=100)
    restrict(database, caller.key_id, requests_per_minute=1)
    meter = make_meter()
    admission = meter.open_request(caller, ids(1), model=TUNED)
    assert admission.headers["x-ratelimit-limit-requests"] == "1", "the tighter of the two is told"
    refused(meter, caller)
    other = Caller("key_b", tenant.organization_id, tenant.project_id, None, caller.role)
    meter.open_request(other, ids(2), model=TUNED)


def test_processes_share_one_limit(database: Engine, caller: Caller, make_meter: MakeMeter) -> None:
    meters = [make_meter(requests_per_minute=5) for _ in range(4)]
    line = threading.Barrier(4)
    let_in: list[bool] = []

    def work(meter: Meter) -> None:
        line.wait()
        for _ in range(4):
            try:
                meter.open_request(caller, ids(1), model=TUNED)
                let_in.append(True)
            except RateLimited:
                let_in.append(False)

    threads = [threading.Thread(target=work, args=(meter,)) for meter in meters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (len(let_in), sum(let_in)) == (16, 5)


ONE_DOLLAR = TokenUsage(output_tokens=833_334)  # of the tuned model


def spend(meter: Meter, caller: Caller, number: int) -> None:
    admission = meter.open_request(caller, ids(number), model=TUNED)
    meter.settle(admission, model=TUNED, usage=ONE_DOLLAR)


def mails(database: Engine, tenant: Tenant) -> list[str]:
    with read(database) as conn:
        return [notice.payload["subject"] for notice in notices(conn, tenant.project_id)]


def test_a_budget_warns_once_and_then_stops(
    database: Engine, tenant: Tenant, caller: Caller, make_meter: MakeMeter, clock: Clock
) -> None:
    restrict(database, tenant.project_id, monthly_budget=4_000_000, warning_percent=50)
    meter = make_meter()
    spend(meter, caller, 1)
    assert mails(database, tenant) == []
    spend(meter, caller, 2)
    spend(meter, caller, 3)
    assert len(mails(database, tenant)) == 1 and "50 %" in mails(database, tenant)[0]
    spend(meter, caller, 4)
    assert len(mails(database, tenant)) == 2 and "100 %" in mails(database, tenant)[0]
    error = refused(meter, caller)
    assert (error.status, error.type, error.code) == (429, "insufficient_quota", "insufficient_quota")
    assert error.headers["x-should-retry"] == "false"
    clock.now = datetime(2027, 2, 1, tzinfo=UTC).timestamp()
    spend(meter, caller, 5)


def test_the_warning_goes_to_every_owner(
    database: Engine, tenant: Tenant, caller: Caller, make_meter: MakeMeter
) -> None:
    restrict(database, tenant.project_id, monthly_budget=1_000_000)
    spend(make_meter(), caller, 1)
    with read(database) as conn:
        sent = notices(conn, tenant.project_id)
    assert {notice.recipient for notice in sent} == {"ada@acme.test"}
    assert "1.00 of 1.00 USD" in sent[0].payload["text"]
    worded = translator("ja").word(sent[0].payload, "text")
    assert "1.00 USD のうち 1.00 USD" in worded and "拒否されます" in worded


def test_parallel_requests_pass_a_budget_once_each(
    database: Engine, tenant: Tenant, caller: Caller, make_meter: MakeMeter
) -> None:
    restrict(database, tenant.project_id, monthly_budget=2_000_000)
    line = threading.Barrier(4)

    def work(index: int) -> None:
        meter = make_meter()
        line.wait()
        for number in range(4):
            try:
                spend(meter, caller, 10 * index + number)
            except RateLimited:
                return

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    refused(make_meter(), caller)

    with read(database) as conn:
        spent = spent_since(conn, tenant.project_id, limits.month_start(NOW)) / 10**12
    assert 2 <= spent < 2 + 4 * 1.01, "the budget and at most one request of each worker"


def test_jobs_a_day(database: Engine, tenant: Tenant, make_job: MakeJob) -> None:
    own = Limits(max_jobs_per_day=2)
    with write(database) as conn:
        make_job(conn, created_at=NOW - 86_401)
        make_job(conn, created_at=NOW)
        limits.check_new_job(conn, tenant.project_id, own, model="m", now=NOW)
        make_job(conn, created_at=NOW)
        with pytest.raises(RateLimited, match=r"maximum of 2 fine-tuning requests per day for the model 'm'") as caught:
            limits.check_new_job(conn, tenant.project_id, own, model="m", now=NOW)
        assert caught.value.code == "daily_rate_limit_exceeded"
        limits.check_new_job(conn, tenant.other_project_id, own, model="m", now=NOW)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0ms"), (0.25, "250ms"), (1, "1s"), (59.6, "1m0s"), (360, "6m0s")])
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_month_begins_at_midnight_utc() -> None:
    assert limits.month_start(NOW) == datetime(2027, 1, 1, tzinfo=UTC).timestamp()

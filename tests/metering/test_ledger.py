import random
import threading
from dataclasses import replace

import pytest
from sqlalchemy import Connection, Engine

from tests.metering.conftest import BASE, TUNED, Clock, MakeJob, MakeMeter, ids
from tests.rows import ledger
from tests.store.conftest import NOW, Tenant
from tunery.domain.tenants import Caller
from tunery.domain.usage import Cost, TokenUsage, UsageSum
from tunery.metering.ledger import RequestIds, record_completion, record_training
from tunery.metering.prices import PriceTable
from tunery.store.database import read, write
from tunery.store.usage import COSTS, WIDTHS_S, mark_delivered, spent_since, sum_usage

USAGE = TokenUsage(input_tokens=100, cached_tokens=40, output_tokens=7)


def total(conn: Connection, tenant: Tenant, width_s: int = 86_400) -> UsageSum | None:
    sums = sum_usage(conn, tenant.organization_id, width_s=width_s, start=0, end=NOW * 2)
    assert len(sums) <= 1 or width_s < 86_400
    return sums[0] if sums else None


def count(database: Engine, caller: Caller, prices: PriceTable, ids: RequestIds, usage: TokenUsage = USAGE) -> None:
    with write(database) as conn:
        record_completion(conn, caller, ids, prices=prices, model=TUNED, usage=usage, now=NOW)


def test_a_completion_is_counted_once_at_the_price_of_its_model(
    database: Engine, tenant: Tenant, caller: Caller, prices: PriceTable
) -> None:
    for _ in range(2):
        count(database, caller, prices, ids(1))
    with read(database) as conn:
        (record,) = ledger(conn, tenant.project_id)
        found = total(conn, tenant)
    cost = Cost(input=60 * 300_000, cached=40 * 150_000, output=7 * 1_200_000)
    assert (record.input_cost, record.cached_cost, record.output_cost) == (cost.input, cost.cached, cost.output)
    assert found and (found.num_requests, found.usage, found.cost) == (1, USAGE, cost)


@pytest.mark.parametrize("width_s", WIDTHS_S)
def test_sums_of_every_width_equal_the_ledger(
    database: Engine, tenant: Tenant, caller: Caller, prices: PriceTable, width_s: int
) -> None:
    chance = random.Random(7)
    with write(database) as conn:
        for number in range(60):
            usage = TokenUsage(chance.randrange(1, 500), 0, chance.randrange(1, 50))
            moment = NOW + chance.randrange(0, 200_000)
            model = chance.choice([BASE, TUNED])
            record_completion(conn, caller, ids(number), prices=prices, model=model, usage=usage, now=moment)
        records = ledger(conn, tenant.project_id)
        sums = sum_usage(
            conn, tenant.organization_id, width_s=width_s, start=0, end=NOW * 2, group_by=("model", "is_batch")
        )
    assert len(records) == 60
    for model in (BASE, TUNED):
        rows = [record for record in records if record.model == model]
        found = [each for each in sums if each.group == {"model": model, "is_batch": False}]
        assert all(each.start_time % width_s == 0 for each in found)
        assert sum(each.usage.input_tokens for each in found) == sum(row.input_tokens for row in rows)
        assert sum(each.cost.total for each in found) == sum(
            getattr(row, f"{name}_cost") for row in rows for name in COSTS
        )
        assert sum(each.num_requests for each in found) == len(rows)


def test_a_retry_of_an_answer_that_did_not_arrive_takes_its_place(
    database: Engine, tenant: Tenant, caller: Caller, prices: PriceTable
) -> None:
    count(database, caller, prices, ids(1, "mine"), TokenUsage(100, 0, 9))
    count(database, caller, prices, replace(ids(2, "mine"), lost="req_1"), TokenUsage(100, 64, 12))
    with read(database) as conn:
        found = total(conn, tenant)
        records = ledger(conn, tenant.project_id)
    assert found and (found.num_requests, found.usage) == (1, TokenUsage(100, 64, 12))
    assert [record.request_id for record in records] == ["req_2"]


def test_an_id_used_again_after_the_answer_arrived_is_another_request(
    database: Engine, tenant: Tenant, caller: Caller, prices: PriceTable
) -> None:
    count(database, caller, prices, ids(1, "mine"))
    with write(database) as conn:
        mark_delivered(conn, ["req_1"])
    count(database, caller, prices, ids(2, "mine"))
    with read(database) as conn:
        found = total(conn, tenant)
    assert found and found.num_requests == 2


def test_the_same_client_id_in_another_project_is_another_request(
    database: Engine, tenant: Tenant, caller: Caller, prices: PriceTable
) -> None:
    elsewhere = Caller("key_b", tenant.organization_id, tenant.other_project_id, None, caller.role)
    count(database, caller, prices, ids(1, "mine"))
    count(database, elsewhere, prices, ids(2, "mine"))
    with read(database) as conn:
        found = total(conn, tenant)
    assert found and found.num_requests == 2


@pytest.mark.parametrize("client", [None, "mine"])
def test_writers_at_once_count_each_request_once(
    database: Engine, tenant: Tenant, caller: Caller, prices: PriceTable, client: str | None
) -> None:
    """Six requests, each counted twice. Under one client's id they are six all the same: each got its answer."""
    line = threading.Barrier(6)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        line.wait()
        try:
            for _ in range(2):
                count(database, caller, prices, ids(number, client))
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    with read(database) as conn:
        found = total(conn, tenant)
    assert found and found.num_requests == 6
    assert found.usage.input_tokens == 600


def test_an_answer_that_arrived_in_the_meantime_is_not_replaced(
    database: Engine, tenant: Tenant, caller: Caller, make_meter: MakeMeter
) -> None:
    """Three requests under one id: two at once, one after the first was counted and before its mark was written."""
    meter, elsewhere = make_meter(), make_meter()
    first, second = (meter.open_request(caller, ids(number, "mine"), model=TUNED) for number in (1, 2))
    meter.settle(first, model=TUNED, usage=USAGE)
    third = elsewhere.open_request(caller, ids(3, "mine"), model=TUNED)
    assert (second.ids.lost, third.ids.lost) == (None, "req_1")
    meter.delivered(first)
    meter.flush()
    for late, admission in ((meter, second), (elsewhere, third)):
        late.settle(admission, model=TUNED, usage=USAGE)
    with read(database) as conn:
        found = total(conn, tenant)
    assert found and found.num_requests == 3


def test_one_lost_answer_is_replaced_once(
    database: Engine, tenant: Tenant, caller: Caller, make_meter: MakeMeter
) -> None:
    died, meter = make_meter(), make_meter()
    died.settle(died.open_request(caller, ids(1, "mine"), model=TUNED), model=TUNED, usage=USAGE)
    retries = [meter.open_request(caller, ids(number, "mine"), model=TUNED) for number in (2, 3)]
    for admission in retries:
        assert admission.ids.lost == "req_1"
        meter.settle(admission, model=TUNED, usage=USAGE)
    with read(database) as conn:
        found = total(conn, tenant)
    assert found and found.num_requests == 2


@pytest.mark.parametrize("is_noted", [False, True], ids=["being sent", "sent, its mark not written"])
def test_an_answer_on_its_way_is_not_lost(
    database: Engine, tenant: Tenant, caller: Caller, make_meter: MakeMeter, is_noted: bool
) -> None:
    """However slowly its client reads it: who asks again under its id meanwhile pays for both."""
    meter = make_meter()
    first = meter.open_request(caller, ids(1, "mine"), model=TUNED)
    meter.settle(first, model=TUNED, usage=USAGE)
    if is_noted:
        meter.delivered(first)
    second = meter.open_request(caller, ids(2, "mine"), model=TUNED)
    assert second.ids.lost is None
    meter.settle(second, model=TUNED, usage=USAGE)
    for admission in (first, second):
        meter.delivered(admission)
    meter.flush()
    with read(database) as conn:
        found = total(conn, tenant)
    assert found and found.num_requests == 2
    assert not meter._leaving


def test_a_job_is_counted_once_and_is_no_request(
    database: Engine, tenant: Tenant, prices: PriceTable, make_job: MakeJob
) -> None:
    with write(database) as conn:
        job = make_job(conn)
        for _ in range(2):
            record = record_training(conn, job, prices=prices, trained_tokens=1_000, now=NOW)
        found = total(conn, tenant)
    assert record.cost == Cost(training=1_000 * 3_000_000)
    assert found and (found.num_requests, found.usage.trained_tokens, found.cost.total) == (0, 1_000, 3_000_000_000)


def test_what_was_spent_counts_from_the_day_on(
    database: Engine, tenant: Tenant, caller: Caller, prices: PriceTable, clock: Clock
) -> None:
    day = NOW - NOW % 86_400
    with write(database) as conn:
        for number, moment in enumerate((day - 1, day)):
            record_completion(conn, caller, ids(number), prices=prices, model=TUNED, usage=USAGE, now=moment)
        one = prices.price_of(TUNED, NOW).cost(USAGE).total
        assert spent_since(conn, tenant.project_id, day) == one
        assert spent_since(conn, tenant.project_id, day - 86_400) == 2 * one
        assert spent_since(conn, tenant.other_project_id, 0) == 0


def test_an_answer_is_counted_before_it_is_delivered_and_marked_with_the_next(
    database: Engine, tenant: Tenant, caller: Caller, make_meter: MakeMeter
) -> None:
    meter = make_meter()
    first = meter.open_request(caller, ids(1, "mine"), model=TUNED)
    meter.settle(first, model=TUNED, usage=USAGE)
    meter.delivered(first)
    second = meter.open_request(caller, ids(2, "mine"), model=TUNED)
    meter.settle(second, model=TUNED, usage=USAGE)
    with read(database) as conn:
        found = total(conn, tenant)
    assert found and found.num_requests == 2, "the first had arrived, so the second is no retry"


def test_marks_are_not_lost_when_the_database_fails(
    database: Engine, tenant: Tenant, caller: Caller, make_meter: MakeMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = make_meter()
    first = meter.open_request(caller, ids(1, "mine"), model=TUNED)
    meter.settle(first, model=TUNED, usage=USAGE)
    meter.delivered(first)
    with monkeypatch.context() as patch:
        patch.setattr("tunery.store.usage.mark_delivered", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            meter.flush()
    meter.flush()
    count(database, caller, make_meter()._prices, ids(2, "mine"))
    with read(database) as conn:
        found = total(conn, tenant)
    assert found and found.num_requests == 2

from tunery.notify.schedule import GIVE_UP_AFTER_S, next_attempt, wait_before


def test_waits_grow_and_never_pass_six_hours() -> None:
    waits = [wait_before(attempt) for attempt in range(1, 40)]
    assert waits == sorted(waits)
    assert waits[0] == 5
    assert waits[-1] == 6 * 3600


def test_attempts_go_on_for_72_hours_and_then_end() -> None:
    now, attempts = 0.0, 0
    while (at := next_attempt(first_at=0, attempt=attempts + 1, now=now)) is not None:
        now, attempts = at, attempts + 1
    assert GIVE_UP_AFTER_S - 6 * 3600 < now <= GIVE_UP_AFTER_S
    assert 15 < attempts < 30

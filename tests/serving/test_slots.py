import pytest

from tunery.serving.slots import AdapterSlots


def ready(slots: AdapterSlots, *names: str) -> None:
    for name in names:
        assert slots.request(name)
        slots.mark_ready(name)


def test_the_least_recently_used_adapter_makes_room() -> None:
    slots = AdapterSlots(2)
    ready(slots, "a", "b")
    slots.pin("a")
    slots.unpin("a")

    assert slots.request("c")

    assert slots.take_evictions() == ["b"]
    assert slots.resident == ["a", "c"]


def test_pinned_and_loading_adapters_stay() -> None:
    slots = AdapterSlots(2)
    ready(slots, "a")
    slots.pin("a")
    slots.request("b")

    assert not slots.request("c")


def test_asking_twice_loads_once() -> None:
    slots = AdapterSlots(2)
    slots.request("a")
    slots.request("a")

    assert slots.take_loads() == ["a"]


def test_a_pinned_adapter_cannot_be_removed() -> None:
    slots = AdapterSlots(1)
    ready(slots, "a")
    slots.pin("a")

    with pytest.raises(AssertionError):
        slots.remove("a")


def test_a_thousand_registered_share_sixty_four_slots() -> None:
    slots = AdapterSlots(64)
    for number in range(1000):
        ready(slots, f"a{number}")
        slots.check({})

    assert len(slots.resident) == 64
    assert len(slots.take_evictions()) == 936

"""Which adapters are resident. Names and numbers only: whoever drains the loads and evictions moves the weights.

A slot is pinned while a running sequence uses it; the least recently used unpinned one makes room.
"""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass
class Slot:
    index: int
    is_ready: bool = False
    pins: int = 0


@dataclass(frozen=True)
class Load:
    adapter: str
    slot: int


class AdapterSlots:
    def __init__(self, max_adapters: int) -> None:
        self.max_adapters = max_adapters
        self._resident: OrderedDict[str, Slot] = OrderedDict()  # least recently used first
        self._free = list(range(max_adapters - 1, -1, -1))
        self._loads: list[Load] = []
        self._evictions: list[str] = []

    @property
    def resident(self) -> list[str]:
        return list(self._resident)

    def is_ready(self, adapter: str) -> bool:
        slot = self._resident.get(adapter)
        return slot is not None and slot.is_ready

    def index(self, adapter: str) -> int:
        return self._resident[adapter].index

    def request(self, adapter: str) -> bool:
        """Make room for an adapter and ask for its weights. False when every slot is in use."""
        if adapter in self._resident:
            self._resident.move_to_end(adapter)
            return True
        if not self._free and not self._evict():
            return False
        slot = Slot(self._free.pop())
        self._resident[adapter] = slot
        self._loads.append(Load(adapter, slot.index))
        return True

    def _evict(self) -> bool:
        # An adapter that is still being loaded stays: somebody waits for it.
        victim = next((name for name, slot in self._resident.items() if not slot.pins and slot.is_ready), None)
        if victim is None:
            return False
        self._free.append(self._resident.pop(victim).index)
        self._evictions.append(victim)
        return True

    def take_loads(self) -> list[Load]:
        loads, self._loads = self._loads, []
        return loads

    def take_evictions(self) -> list[str]:
        evictions, self._evictions = self._evictions, []
        return evictions

    def mark_ready(self, adapter: str) -> None:
        self._resident[adapter].is_ready = True

    def remove(self, adapter: str) -> None:
        """Forget an adapter that failed to load or was unloaded. It must not be pinned."""
        slot = self._resident.pop(adapter, None)
        if slot is not None:
            assert not slot.pins, f"{adapter!r} is in use"
            self._free.append(slot.index)
            self._loads = [load for load in self._loads if load.adapter != adapter]

    def is_loading(self, adapter: str) -> bool:
        slot = self._resident.get(adapter)
        return slot is not None and not slot.is_ready

    def pin(self, adapter: str) -> None:
        slot = self._resident[adapter]
        assert slot.is_ready, f"{adapter!r} is pinned before it is loaded"
        slot.pins += 1
        self._resident.move_to_end(adapter)

    def unpin(self, adapter: str) -> None:
        slot = self._resident[adapter]
        slot.pins -= 1
        assert slot.pins >= 0

    def check(self, pins: dict[str, int]) -> None:
        """Assert that slots are conserved and pinned exactly by the running sequences."""
        taken = [slot.index for slot in self._resident.values()]
        assert sorted(taken + self._free) == list(range(self.max_adapters)), "a slot is lost or doubled"
        assert {name: slot.pins for name, slot in self._resident.items() if slot.pins} == pins, "pins are wrong"

"""Which adapters are resident. Names and numbers only: whoever drains the loads and evictions moves the weights.

A slot is pinned while a running sequence uses it; the least recently used unpinned one makes room.
"""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass
class Slot:
    is_ready: bool = False
    pins: int = 0


class AdapterSlots:
    def __init__(self, max_adapters: int) -> None:
        self.max_adapters = max_adapters
        self._resident: OrderedDict[str, Slot] = OrderedDict()  # least recently used first
        self._loads: list[str] = []
        self._evictions: list[str] = []

    @property
    def resident(self) -> list[str]:
        return list(self._resident)

    def is_ready(self, adapter: str) -> bool:
        slot = self._resident.get(adapter)
        return slot is not None and slot.is_ready

    def request(self, adapter: str) -> bool:
        """Make room for an adapter and ask for its weights. False when every slot is in use."""
        if adapter in self._resident:
            self._resident.move_to_end(adapter)
            return True
        if len(self._resident) == self.max_adapters and not self._evict():
            return False
        self._resident[adapter] = Slot()
        self._loads.append(adapter)
        return True

    def _evict(self) -> bool:
        # An adapter that is still being loaded stays: somebody waits for it.
        victim = next((name for name, slot in self._resident.items() if not slot.pins and slot.is_ready), None)
        if victim is None:
            return False
        del self._resident[victim]
        self._evictions.append(victim)
        return True

    def take_loads(self) -> list[str]:
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
            self._loads = [name for name in self._loads if name != adapter]

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
        """Assert that there are no more than there may be, pinned exactly by the running sequences."""
        assert len(self._resident) <= self.max_adapters, "an adapter has no slot"
        assert {name: slot.pins for name, slot in self._resident.items() if slot.pins} == pins, "pins are wrong"

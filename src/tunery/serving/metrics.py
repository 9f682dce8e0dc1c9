"""What the engine counts, for Prometheus."""

from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

_LATENCIES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class EngineMetrics:
    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ours: dict[str, Any] = {"namespace": "tunery_engine", "registry": registry}
        gauge, counter = partial(Gauge, **ours), partial(Counter, **ours)
        histogram = partial(Histogram, buckets=_LATENCIES, **ours)
        self.waiting = gauge("requests_waiting", "Sequences that wait for room, tokens or their adapter.")
        self.running = gauge("requests_running", "Sequences in the running batch.")
        self.kv_use = gauge("kv_cache_use_ratio", "Share of the cache's blocks that running sequences hold.")
        self.cached_blocks = gauge("prefix_cache_blocks", "Blocks whose prefix can be found again.")
        self.resident = gauge("adapters_resident", "Adapters in memory.")
        self.registered = gauge("adapters_registered", "Adapters that can be asked for.")
        self.adapter_bytes = gauge("adapter_bytes", "Memory of the resident adapters' weights.")
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens of finished requests.")
        self.output_tokens = counter("output_tokens", "Tokens drawn.")
        self.cached_tokens = counter("cached_tokens", "Prompt tokens taken from the prefix cache.")
        self.finished = counter("requests", "Finished sequences by their reason.", ["finish_reason"])
        self.preemptions = counter("preemptions", "Sequences that gave their blocks back to be computed anew.")
        self.adapter_loads = counter("adapter_loads", "Adapters read into memory.")
        self.adapter_evictions = counter("adapter_evictions", "Adapters that made room for others.")
        self.ttft = histogram("time_to_first_token_seconds", "From a request's arrival to its first token.")
        self.inter_token = histogram("inter_token_seconds", "Between two tokens of a sequence.")
        self.adapter_load = histogram("adapter_load_seconds", "Reading one adapter's files into memory.")
        self._info = Info("computes_with", "The weights' form and the processor's instructions.", **ours)
        self.step = histogram("step_seconds", "One step of the engine.")

    def describe(self, *, base: str, weights: str, instructions: str) -> None:
        """What does not change while the engine runs."""
        self._info.info({"base": base, "weights": weights, "instructions": instructions})

    def render(self) -> bytes:
        return generate_latest(self._registry)

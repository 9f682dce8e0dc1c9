"""Trainers on the nodes of a Ray cluster. The worker is Ray's driver: when it dies, Ray ends its actors, and with them
the trainers.
"""
# pyright: standard
# (not strict: half of Ray's own types are unknown)

import contextlib
import logging
import time
from dataclasses import dataclass, replace
from typing import Any, TextIO

import ray
from ray import ObjectRef
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tunery.domain.job_details import SavedState
from tunery.jobs.ray_node import Began, RayNode, Said, storage_of
from tunery.jobs.runner import Inputs, TrainerLost
from tunery.settings import Settings
from tunery.texts import say
from tunery.texts.amounts import size
from tunery.training.protocol import ControlRequest, Failed, Finished, Message, Note, Workdir

log = logging.getLogger(__name__)

LISTEN_S = 5.0  # of one request for a trainer's words; they are handed on as they come
TOLD_AFTER_S = 10.0  # that no node has room
CLOSE_S = 15.0  # for a trainer to end and its folder to go
CALLS = 8  # of an actor at once: listening, and what is asked meanwhile


@dataclass(frozen=True)
class RayRunner:
    """A `runner.Runner`. Needs a connection, which `ray_cluster.connect` makes."""

    storage: tuple[str, str]
    trainers: int  # of one job
    cpus: int  # of each
    gpus: float

    @classmethod
    def of(cls, settings: Settings) -> "RayRunner":
        return cls(storage_of(settings), settings.ray_trainers, settings.ray_cpus, settings.ray_gpus)

    def start(self, inputs: Inputs, workdir: Workdir, lock: TextIO) -> "RayTrainer":
        """Returns at once: nodes may have room later, for all trainers of the job or for none."""
        memory = inputs.memory_bytes
        places = placement_group([{"CPU": self.cpus, "GPU": self.gpus, "memory": memory}] * self.trainers, "SPREAD")
        actors = [self._actor(places, rank, memory) for rank in range(self.trainers)]
        meeting = actors[0].meeting.remote()
        starting = [
            actor.start.remote(self._of_rank(inputs, rank), self.storage, meeting) for rank, actor in enumerate(actors)
        ]
        wanted = say(
            "event.node_wanted", count=self.trainers, cpus=self.cpus, gpus=f"{self.gpus:g}", memory=size(memory)
        )
        return RayTrainer(workdir, places, actors, starting, wanted)

    def _actor(self, places: PlacementGroup, rank: int, memory: int) -> Any:
        return (
            ray.remote(RayNode)
            .options(
                num_cpus=self.cpus,
                num_gpus=self.gpus,
                memory=memory,
                max_concurrency=CALLS,
                scheduling_strategy=PlacementGroupSchedulingStrategy(places, placement_group_bundle_index=rank),
            )
            .remote()
        )

    def _of_rank(self, inputs: Inputs, rank: int) -> Inputs:
        spec = replace(inputs.spec, threads=self.cpus, rank=rank, num_trainers=self.trainers)
        return replace(inputs, spec=spec)


class RayTrainer:
    """A `runner.Trainer` of one or several that share the job, each behind an actor. The first one speaks for all, and
    its folder is the job's; of the others only a failure is heard. Whatever waits raises TrainerLost when an actor is
    gone and nobody here ended it."""

    def __init__(
        self, workdir: Workdir, places: PlacementGroup, actors: list[Any], starting: list[ObjectRef], wanted: str
    ) -> None:
        self._workdir, self._places, self._actors, self._starting = workdir, places, actors, starting
        self._first, self._placed = actors[0], places.ready()
        self._began: list[Began] = []
        self._heard: dict[ObjectRef, int] = {}  # requests for words, with the rank of who is to answer
        self._done: set[int] = set()  # ranks of others that came to the end
        self._wanted, self._told_at = wanted, time.monotonic() + TOLD_AFTER_S
        self._must_end = self.ended = False

    @property
    def step(self) -> int:
        return self._began[0].step if self._began else 0

    @property
    def node(self) -> str:
        return ", ".join(sorted(began.node for began in self._began))

    def messages(self, timeout_s: float) -> list[Message]:
        try:
            return self._hear(timeout_s) if self._began else self._await_start(timeout_s)
        except TrainerLost:
            if not self._must_end:
                raise
            self.ended = True
            return []

    def _await_start(self, timeout_s: float) -> list[Message]:
        if self._must_end:
            self.ended = True
            return []
        ready, waiting = ray.wait(self._starting, num_returns=len(self._starting), timeout=timeout_s)
        began = [self._get(each) for each in ready]
        if not waiting:
            self._began = began
            for rank in range(len(self._actors)):
                self._listen(rank)
        elif time.monotonic() > self._told_at and not ray.wait([self._placed], timeout=0)[0]:
            self._told_at = float("inf")
            return [Note.of(self._wanted)]
        return []

    def _listen(self, rank: int) -> None:
        self._heard[self._actors[rank].messages.remote(LISTEN_S)] = rank

    def _hear(self, timeout_s: float) -> list[Message]:
        messages: list[Message] = []
        for ready in ray.wait([*self._heard], timeout=timeout_s)[0]:
            rank, said = self._heard.pop(ready), self._get(ready)
            messages += self._of_first(said) if rank == 0 else self._of_other(said, rank)
            if not said.has_ended:
                self._listen(rank)
        return messages

    def _of_first(self, said: Said) -> list[Message]:
        if said.samples is not None:
            self._workdir.samples.write_bytes(said.samples)
        if said.log is not None:
            self._workdir.log.write_text(said.log, "utf-8")
        self.ended = said.has_ended
        return said.messages

    def _of_other(self, said: Said, rank: int) -> list[Message]:
        """A failure of its own, with which the first ends too. Raises TrainerLost when it ended before its time: the
        first would wait for it."""
        failures: list[Message] = [message for message in said.messages if isinstance(message, Failed)]
        if failures:
            self.kill()
        if any(isinstance(message, Finished) for message in said.messages):
            self._done.add(rank)
        if said.has_ended and rank not in self._done and not self._must_end:
            raise TrainerLost(self._get(self._actors[rank].wait.remote(CLOSE_S)))
        return failures

    def ask(self, wanted: ControlRequest) -> None:
        self._must_end = True
        self._first.ask.remote(wanted)

    def kill(self) -> None:
        self._must_end = True
        for actor in self._actors:
            if self._began:
                actor.kill.remote()
            else:
                ray.kill(actor)

    def wait(self, timeout_s: float) -> str:
        return self._get(self._first.wait.remote(timeout_s)) if self._began else ""

    def save_state(self) -> SavedState | None:
        return self._get(self._first.save_state.remote()) if self._began else None

    def store_checkpoint(self, step: int, prefix: str) -> int:
        return self._get(self._first.store_checkpoint.remote(step, prefix))

    def close(self) -> None:
        if self._began:
            with contextlib.suppress(RayError):
                ray.get([actor.close.remote() for actor in self._actors], timeout=CLOSE_S)
        remove_placement_group(self._places)  # and its actors with it

    def _get(self, answer: ObjectRef) -> Any:
        """What an actor's method gave or raised. Raises TrainerLost too."""
        try:
            return ray.get(answer)
        except RayTaskError as exc:
            raise exc.cause if isinstance(exc.cause, Exception) else exc from None
        except RayError as exc:
            log.warning("a trainer on the node %s is lost: %s", self.node or "–", exc)
            raise TrainerLost(say("event.why.node_lost", node=self.node or "–")) from exc

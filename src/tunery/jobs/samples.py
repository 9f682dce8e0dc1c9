"""What each checkpoint answers to a job's sample prompts, while the job trains. The engine is asked in a thread of its
own, so that neither the trainer nor what it says waits. One that does not answer costs the samples, not the job."""

import logging
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tunery.domain.job_details import StoredCheckpoint
from tunery.domain.jobs import MAX_SAMPLE_TOKENS, FineTuningJob, SampleAnswer
from tunery.domain.usage import TokenUsage
from tunery.engines.host import starter
from tunery.engines.scoring import EngineScorer, EngineUnreachable
from tunery.jobs.endings import find_engine
from tunery.jobs.hold import Lease, LeaseLost
from tunery.jobs.resources import Resources
from tunery.metering import ledger
from tunery.store import events
from tunery.store.database import read, write
from tunery.texts import say

log = logging.getLogger(__name__)

LOOK_S = 0.2


class Sampler:
    """Every transaction renews the lease first, as the recorder's do."""

    def __init__(self, job: FineTuningJob, resources: Resources, lease: Lease) -> None:
        self._job, self._resources, self._lease = job, resources, lease
        self._asked: queue.Queue[tuple[StoredCheckpoint, Path, str]] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._is_over = threading.Event()

    def ask(self, checkpoint: StoredCheckpoint, folder: Path, source: str) -> None:
        """`folder`: the adapter's; `source`: the base that it stands on, as in the catalog."""
        kept = folder.parent.parent / "samples" / folder.name  # the trainer removes old ones, however far this is
        try:
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(folder, kept, copy_function=os.link)
        except (OSError, shutil.Error):
            kept = folder
        self._asked.put((checkpoint, kept, source))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"samples-{self._job.id}", daemon=True)
            self._thread.start()

    def wait(self, must_stop: Callable[[], bool]) -> None:
        """Until all is answered, or the attempt is to end."""
        while self._asked.unfinished_tasks and not must_stop():
            time.sleep(LOOK_S)

    def stop(self) -> None:
        """What has been asked is left, but for the request that is under way."""
        self._is_over.set()

    def _work(self) -> None:
        while not self._is_over.is_set():
            try:
                checkpoint, folder, source = self._asked.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            try:
                self._answer(checkpoint, folder, source)
            except LeaseLost:
                pass  # seen by whoever asks the lease
            except EngineUnreachable as exc:
                self._tell_trouble(checkpoint.step, exc.args[0])
            except Exception as exc:  # the database is away, or the folder went with an older checkpoint
                log.exception("the sample prompts of %s were not answered", self._job.id)
                self._tell_trouble(checkpoint.step, say("event.why.internal", name=type(exc).__name__))
            finally:
                if folder.parent.name == "samples":
                    shutil.rmtree(folder, ignore_errors=True)
                self._asked.task_done()

    def _answer(self, checkpoint: StoredCheckpoint, folder: Path, source: str) -> None:
        """Raises EngineUnreachable, LeaseLost."""
        resources, prompts = self._resources, self._job.sample_prompts or []
        with read(resources.engine) as conn:
            if events.list_samples(conn, self._job.id, after_step=checkpoint.step - 1):
                return  # before the job was resumed
        settings, engine = resources.settings, None
        start = starter(settings, source, goes_on=lambda: not self._lease.lost and not self._is_over.is_set())
        if settings.engines or start:
            key = settings.engine_api_key
            engine = find_engine(settings.engines, source, resources.catalog, key=key, start=start)
        if engine is None:
            raise EngineUnreachable(say("event.parity.no_engine"))
        name = f"{checkpoint.model_id}-samples"
        with engine.adapter(name, folder):
            answers = [self._ask(engine, name, checkpoint.step, number) for number in range(len(prompts))]
        self._keep(checkpoint.step, answers)

    def _ask(self, engine: EngineScorer, name: str, step: int, number: int) -> SampleAnswer:
        assert self._job.sample_prompts is not None
        given = engine.answer(name, self._job.sample_prompts[number], max_tokens=MAX_SAMPLE_TOKENS)
        choice, usage = given["choices"][0], given["usage"]
        return SampleAnswer(
            job_id=self._job.id,
            step=step,
            prompt=number,
            created_at=int(self._resources.clock()),
            answer=(choice["message"]["content"] or "").replace("\0", "\ufffd"),
            finish_reason=choice["finish_reason"],
            prompt_tokens=usage["prompt_tokens"],
            completion_tokens=usage["completion_tokens"],
        )

    def _keep(self, step: int, answers: list[SampleAnswer]) -> None:
        now = self._resources.clock()
        usage = TokenUsage(
            input_tokens=sum(answer.prompt_tokens for answer in answers),
            output_tokens=sum(answer.completion_tokens for answer in answers),
        )
        told = say("event.samples", count=len(answers), step=step)
        with write(self._resources.engine) as conn:
            self._lease.renew(conn)
            events.add_samples(conn, answers)
            ledger.record_samples(conn, self._job, step=step, usage=usage, prices=self._resources.prices, now=now)
            events.add_event(conn, self._job.id, told, now=now, data={"step": step, "samples": len(answers)})

    def _tell_trouble(self, step: int, reason: str) -> None:
        told, now = say("event.samples_unanswered", step=step, reason=reason), self._resources.clock()
        try:
            with write(self._resources.engine) as conn:
                self._lease.renew(conn)
                events.add_event(conn, self._job.id, told, now=now, level="warn", data={"step": step})
        except LeaseLost:
            pass
        except Exception:
            log.warning("an event of %s could not be written", self._job.id, exc_info=True)

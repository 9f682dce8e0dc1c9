"""Makes a home with jobs in flight. Run with the version before on the path, whose names it uses, and killed by itself:

python make_former_home.py HOME MODEL_DIR
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import json
import os
import signal
import sys
import time
from pathlib import Path

from tunery.jobs.runners.process import TRAINER

from tests.jobs.conftest import open_site
from tunery.domain.clock import system_clock
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.jobs import JobStatus
from tunery.jobs import lifecycle
from tunery.settings import load_settings
from tunery.store.bootstrap import bootstrap
from tunery.store.database import connect, migrate, write

CHOSEN = Hyperparameters(n_epochs=20, batch_size=2)
STEPS_PER_EPOCH = 6  # 12 rows

home = Path(sys.argv[1])
settings = load_settings(
    home=home, catalog=home / "catalog.toml", prices=home / "prices.toml", lease_s=3, state_interval_s=0.3,
    worker_concurrency=1,
)  # fmt: skip
engine = connect(settings.resolved_database_url)
migrate(engine)
with write(engine) as conn:
    bootstrap(conn, clock=system_clock, key="sk-test-key")
engine.dispose()
with open_site(settings) as site:
    # In that version the process that compiles the loops computes other bits than those that find them compiled.
    first = site.create(hyperparameters=Hyperparameters(n_epochs=1, batch_size=2), seed=1)
    whole = site.create(hyperparameters=CHOSEN, seed=1)
    with site.worker(TRAINER):
        assert site.wait(first.id, timeout_s=400).status is JobStatus.SUCCEEDED
        assert site.wait(whole.id, timeout_s=400).status is JobStatus.SUCCEEDED
        ids = {"whole": whole.id}
        for name in ("paused", "killed", "queued"):
            ids[name] = site.create(hyperparameters=CHOSEN, seed=1, training_file=whole.training_file).id
            if name == "paused":
                site.wait_for_step(ids[name], 9, timeout_s=300)
                site.verb(lifecycle.pause_job, ids[name])
                assert site.wait(ids[name], JobStatus.PAUSED, timeout_s=300).status is JobStatus.PAUSED
        site.wait(ids["queued"], JobStatus.QUEUED, timeout_s=300)
        step = 0
        while step < STEPS_PER_EPOCH or step % STEPS_PER_EPOCH not in (1, 2, 3):
            time.sleep(0.005)
            job = site.job(ids["killed"])
            assert not job.is_terminal, "it ended before it could be killed"
            step = job.step
        (home / "in-flight.json").write_text(json.dumps(ids))
        os.kill(os.getpid(), signal.SIGKILL)

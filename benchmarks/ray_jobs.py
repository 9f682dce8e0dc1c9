"""`python benchmarks/ray_jobs.py --json`: how much sooner two nodes of a Ray cluster train some jobs than one.

one_s, two_s  from the creation of the jobs to the end of the last one; each node has one core of this machine
ratio         the second by the first: 0.5 would be twice as fast

A job of each node comes first and is not counted: it compiles loops and reads the base. What it is doing goes to
standard error. The cluster has a network of its own, which root, and most users, may make (`unshare --net`). Not named
`ray.py`: programs in this folder that import Ray would find it instead.

`--jobs` sets how many (8), `--rows` of how many examples each (64).
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from batch import BASE, SOURCE
from serve import progress

from tunery.domain.clock import system_clock
from tunery.domain.files import File, FilePurpose
from tunery.domain.hyperparameters import Hyperparameters
from tunery.domain.ids import new_id
from tunery.domain.jobs import JobStatus
from tunery.domain.tenants import Caller, Role
from tunery.jobs import verbs
from tunery.jobs.requests import JobRequest
from tunery.models.catalog import Catalog
from tunery.models.sources.cache import ensure
from tunery.settings import Settings, load_settings
from tunery.store import files, jobs, tenants
from tunery.store.blobs import Blobs
from tunery.store.bootstrap import bootstrap
from tunery.store.database import migrate, open_database, read, write

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "models"


class Queue:
    """A home's jobs on one training file."""

    def __init__(self, settings: Settings, lines: list[str]) -> None:
        self.settings, self.engine = settings, open_database(settings)
        migrate(self.engine)
        with write(self.engine) as conn:
            bootstrap(conn, clock=system_clock, key=None)
            organization = tenants.list_organizations(conn)[0]
            project = tenants.list_projects(conn, organization.id).items[0]
            owner = tenants.list_users(conn, organization.id).items[0]
            self.caller = Caller("key_1", organization.id, project.id, owner.id, Role.OWNER)
            self.file_id = self._add_file(conn, lines)

    def _add_file(self, conn, lines: list[str]) -> str:
        file_id = new_id("file")
        info = Blobs.open(self.settings).put(f"files/{file_id}", "\n".join(lines).encode())
        about = (file_id, self.caller.project_id, int(time.time()), "rows.jsonl", FilePurpose.FINE_TUNE)
        files.insert_file(conn, File(*about, info.bytes, info.sha256, info.path))
        return file_id

    def train(self, number: int) -> float:
        """Seconds until so many jobs have succeeded."""
        request = JobRequest(
            model=BASE, training_file=self.file_id, hyperparameters=Hyperparameters(n_epochs=1, batch_size=8)
        )
        catalog, started = Catalog.of(self.settings), time.monotonic()
        with write(self.engine) as conn:
            made = [
                verbs.create_job(conn, request, caller=self.caller, catalog=catalog, settings=self.settings).id
                for _ in range(number)
            ]
        while not all(self._has_succeeded(job_id) for job_id in made):
            time.sleep(0.1)
        return time.monotonic() - started

    def _has_succeeded(self, job_id: str) -> bool:
        with read(self.engine) as conn:
            job = jobs.get_job(conn, job_id)
        if job.is_terminal and job.status is not JobStatus.SUCCEEDED:
            raise RuntimeError(f"{job_id} is {job.status}: {job.error}")
        return job.is_terminal


def measure(names: list[str], number: int, lines: list[str]) -> float:
    sys.path.append(str(ROOT))
    from tests.ray_cluster import ADDRESS, RayCluster

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared = {"TUNERY_BLOB_URL": (folder / "blobs").as_uri(), "TUNERY_MODEL_CACHE": str(CACHE)}
        settings = load_settings(
            home=folder / "home",
            blob_url=shared["TUNERY_BLOB_URL"],
            model_cache=CACHE,
            runner="ray",
            ray_address=ADDRESS,
            worker_concurrency=number,
            start_engine=False,
        )
        settings.home.mkdir()
        cluster = RayCluster(folder, shared)
        try:
            cluster.start(*names, pinned=True)
            queue = Queue(settings, lines)
            worker = cluster.run([sys.executable, "-m", "tunery.launch.worker"], settings.as_environment())
            try:
                progress(f"{len(names)} nodes: first jobs {queue.train(len(names)):.1f} s")
                took = queue.train(number)
                progress(f"{len(names)} nodes: {number} jobs {took:.1f} s")
                return took
            finally:
                worker.terminate()
                worker.wait(60)
        finally:
            cluster.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--json", action="store_true", help="one line of JSON on standard output")
    options = parser.parse_args()
    ensure(SOURCE, CACHE)
    lines = (ROOT / "examples" / "marv.jsonl").read_text("utf-8").strip().split("\n")[: options.rows]
    one, two = (measure(names, options.jobs, lines) for names in (["one"], ["one", "two"]))
    result = {"jobs": options.jobs, "rows": len(lines), "one_s": one, "two_s": two, "ratio": two / one}
    sys.stdout.write(json.dumps(result, indent=None if options.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

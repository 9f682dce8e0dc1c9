"""`make cluster`, or `python -m tests.cluster`: a cluster on one machine, and what it loses when its parts are killed.

Two machines, each a node of a real Ray cluster, an engine, an api and a worker on a core of its own, share a Postgres,
a SeaweedFS and a balancer; where vLLM is installed (`make vllm`), one is a third engine. The first machine has a load
to itself, then both together have it; then a node, an api, an engine and a worker are killed under a longer one. The
load is jobs of several projects, and clients that ask meanwhile for answers of the base and of the models that appear.

Ends with 1 when something was lost or done twice. What it is doing goes to standard error.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster import audit
from tests.cluster.kills import Killed, kill_one_of_each
from tests.cluster.load import Done, Load, Project, open_projects
from tests.cluster.site import Site, open_site, progress
from tests.ray_cluster import alone

NUM_PROJECTS = 4
COMPARED_JOBS = 4  # of each of the two stages that are compared
ALONE_S = 10.0  # of answers without jobs
KILLED = "two machines, parts of them killed"


@dataclass(frozen=True)
class Options:
    jobs: int
    clients: int
    pause_s: float  # of a client between an answer and its next question, while jobs train
    compare: bool
    json: bool


def parse(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=20, help="while parts are killed (20)")
    parser.add_argument("--clients", type=int, default=64, help="that ask meanwhile (64)")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between an answer and the next question (2)")
    parser.add_argument("--no-compare", dest="compare", action="store_false", help="kill at once, measure nothing")
    parser.add_argument("--json", action="store_true", help="one line of JSON on standard output")
    parser.add_argument("--is-alone", action="store_true", help=argparse.SUPPRESS)  # in a network of its own
    found = parser.parse_args(arguments)
    if not found.is_alone:
        command = alone([sys.executable, "-m", "tests.cluster", *arguments, "--is-alone"])
        os.execvp(command[0], command)
    return Options(found.jobs, found.clients, found.pause, found.compare, found.json)


def run(options: Options) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="cluster-", dir="/tmp") as folder, open_site(Path(folder)) as site:
        progress("Ray's head, Postgres and S3 are up; machines join")
        site.join("one", *([] if options.compare else ["two"]))
        stages = Stages(site, open_projects(site, NUM_PROJECTS), options)
        if options.compare:
            stages.measure("one machine")
            progress("the second machine joins")
            site.join("two")
            stages.measure("two machines")
        killed = stages.kill()
        progress("looking for what was lost or repeated")
        return {
            "killed": [asdict(each) for each in killed],
            "went_on": audit.went_on(site.database, stages.done[-1]),
            "lost": audit.lost(site.database, stages.done),
            "repeated": audit.repeated(site.database, stages.done),
            "throughput": stages.throughput,
            "vllm": any(name.endswith("vllm") for name in site.parts),
            "cores": os.cpu_count(),
            **_totals(stages.done),
        }


@dataclass
class Stages:
    site: Site
    projects: list[Project]
    options: Options
    done: list[Done] = field(default_factory=list)
    throughput: dict[str, dict[str, float]] = field(default_factory=dict)

    def measure(self, name: str) -> None:
        """What the machines that have joined do: answers alone, then jobs beside answers to clients that pause. The
        first jobs, one a machine, are not counted: they read the base and compile loops."""
        self._stop(self._start("first jobs", num_jobs=len(self.site.cluster.nodes) - 1))
        asking = self._start(f"answers alone, {name}", num_clients=self.options.clients)
        time.sleep(ALONE_S)
        alone = self._stop(asking).requests_per_s
        load = {"num_jobs": COMPARED_JOBS, "num_clients": self.options.clients, "pause_s": self.options.pause_s}
        self.throughput[name] = {"answers_alone_per_s": alone, **_throughput(self._stop(self._start(name, **load)))}

    def kill(self) -> list[Killed]:
        load = self._start(
            KILLED, num_jobs=self.options.jobs, num_clients=self.options.clients, pause_s=self.options.pause_s
        )
        killed = kill_one_of_each(load)
        self.throughput[KILLED] = _throughput(self._stop(load))
        return killed

    def _start(self, name: str, *, num_jobs: int = 0, num_clients: int = 0, pause_s: float = 0) -> Load:
        progress(f"{name}: {num_jobs} jobs of {len(self.projects)} projects, {num_clients} clients")
        unique = f"{len(self.done)}-{name}".replace(" ", "-")
        return Load.start(self.site, self.projects, unique, num_jobs=num_jobs, num_clients=num_clients, pause_s=pause_s)

    def _stop(self, load: Load) -> Done:
        self.done.append(load.stop())
        return self.done[-1]


def _throughput(done: Done) -> dict[str, float]:
    return {
        "jobs_per_s": done.jobs_per_s,
        "requests_per_s": done.requests_per_s,
        "p95_s": statistics.quantiles(took, n=20)[-1] if len(took := done.latencies_s) > 1 else 0.0,
        "took_s": done.took_s,
    }


def _totals(stages: Sequence[Done]) -> dict[str, int]:
    told = [each for done in stages for each in done.told]
    return {
        "jobs": sum(len(done.jobs) for done in stages),
        "requests": sum(len(each.answers) for each in told),
        "requests_of_tuned_models": sum(
            times for each in told for model, times in each.by_model.items() if model.startswith("ft:")
        ),
        "retries_of_the_sdk": sum(each.retries for each in told),
        "streams_asked_again": sum(each.asked_again for each in told),
    }


def show(report: dict[str, Any]) -> str:
    lines = [f"{report['jobs']} jobs, {report['requests']:,} requests answered, "
             f"{report['requests_of_tuned_models']:,} of them by tuned models"]  # fmt: skip
    lines += ["", f"{'killed':14}{'after':>8}  at work on"]
    lines += [
        f"{each['part']:14}{each['after_s']:6.1f} s  {', '.join(each['at_work_on'])}" for each in report["killed"]
    ]
    lines.append(f"{len(report['went_on'])} jobs went on elsewhere; the SDK asked {report['retries_of_the_sdk']} times "
                 f"again, clients {report['streams_asked_again']} times for streams that broke off")  # fmt: skip
    for kind in ("lost", "repeated"):
        lines += ["", kind]
        for name, found in report[kind].items():
            lines.append(f"  {name:34}{len(found):6}")
            lines += [f"    {each}" for each in found]
    lines += _table(report["throughput"], report["cores"])
    if not report["vllm"]:
        lines += ["", "Without a vLLM, which is not installed: `make vllm` does."]
    return "\n".join(lines) + "\n"


def _table(rows: dict[str, dict[str, float]], num_cores: int) -> list[str]:
    lines = ["", f"{'':36}{'answers/s':>10} |{'jobs/s':>8}{'answers/s':>11}{'p95, s':>8}{'seconds':>9}"]
    lines.append(f"{'throughput':36}{'alone':>10} | meanwhile")
    for name, row in rows.items():
        alone = f"{row['answers_alone_per_s']:.1f}" if "answers_alone_per_s" in row else "–"
        beside = f"{row['jobs_per_s']:8.3f}{row['requests_per_s']:11.1f}{row['p95_s']:8.2f}{row['took_s']:9.1f}"
        lines.append(f"  {name:34}{alone:>10} |{beside}")
    if ratio := _ratio(rows):
        beside = f"{ratio['jobs_per_s']:8.2f}{ratio['requests_per_s']:11.2f}{ratio['p95_s']:8.2f}"
        lines.append(f"  {'two by one':34}{ratio['answers_alone_per_s']:10.2f} |{beside}")
        lines.append(f"  Of {num_cores} cores each machine has one; clients, Postgres and S3 have the others, if any.")
    return lines


def _ratio(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    if "one machine" not in rows:
        return {}
    return {name: rows["two machines"][name] / value for name, value in rows["one machine"].items()}


def main() -> int:
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # with all that was started
    report = run(options)
    sys.stdout.write(json.dumps(report) + "\n" if options.json else show(report))
    return 1 if any([*report["lost"].values(), *report["repeated"].values()]) else 0


if __name__ == "__main__":
    sys.exit(main())

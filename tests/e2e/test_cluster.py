"""`make cluster` in short: a node, an api, an engine and a worker of two machines are killed at their work, and nothing
is lost or done twice."""

import json
import subprocess
import sys

import pytest

from tests.e2e.conftest import REPOSITORY

SHORT = ["--jobs", "3", "--clients", "16", "--no-compare"]
COMMAND = [sys.executable, "-m", "tests.cluster", *SHORT, "--json"]


@pytest.mark.e2e
def test_one_of_each_is_killed_and_nothing_is_lost_or_repeated() -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY) as run:
        try:
            printed, progress = run.communicate(timeout=500)
        finally:
            run.terminate()  # it ends what it has started
    assert printed, progress
    report = json.loads(printed)
    assert {name: found for kind in ("lost", "repeated") for name, found in report[kind].items() if found} == {}
    assert run.returncode == 0

    at_work_on = {each["part"].partition(" ")[0]: each["at_work_on"] for each in report["killed"]}
    assert set(at_work_on) == {"node", "api", "engine", "worker"}
    assert all(at_work_on.values()), f"one was killed that did nothing: {at_work_on}"
    assert any("the node one of the cluster was lost" in said for said in report["went_on"]), report["went_on"]
    assert any("worker was lost" in said for said in report["went_on"]), report["went_on"]
    assert report["retries_of_the_sdk"] > 0, "no request met a part that died"
    assert report["jobs"] == 3 and report["requests"] > 0 < report["requests_of_tuned_models"]

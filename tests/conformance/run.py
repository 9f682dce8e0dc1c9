"""`python -m tests.conformance.run`: fetch the SDK's own suite, run it, write docs/conformance.md, print the score.

Needs pip's package index the first time; what it fetches stays in .cache/conformance.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conformance.report import document, parts, score, tally, totals

REPOSITORY = Path(__file__).parents[2]
VERSION = "3.54.0"
CACHE = REPOSITORY / ".cache" / "conformance" / VERSION
PLUGINS = Path(__file__).parent
GROUPS = (
    "fine_tuning",
    "test_files.py",
    "uploads",
    "test_uploads.py",
    "test_models.py",
    "test_embeddings.py",
    "webhooks",
    "test_webhooks.py",
    "test_responses.py",
    "responses",
    "test_batches.py",
    "test_moderations.py",
    "test_conversations.py",
    "conversations",
    "test_evals.py",
    "evals",
    "admin/organization/test_admin_api_keys.py",
    "admin/organization/test_audit_logs.py",
    "admin/organization/test_projects.py",
    "admin/organization/test_usage.py",
    "admin/organization/test_users.py",
    "admin/organization/projects/test_api_keys.py",
    "admin/organization/projects/test_rate_limits.py",
    "admin/organization/projects/test_service_accounts.py",
    "admin/organization/projects/test_spend_limit.py",
    "admin/organization/projects/test_users.py",
)
# Of a file with operations that are not built, the tests of those that are.
ONLY = {
    "admin/organization/test_usage.py": r"_(completions|embeddings|costs)(_|\[|$)",
    "test_responses.py": r"^(?!.*_compact)",  # it shortens what a reasoning model thought
}
NEEDED = (
    f"openai[aiohttp]=={VERSION}",
    "pytest>=9",
    "pytest-asyncio>=1.4",
    "pytest-xdist>=3.6",
    "inline-snapshot>=0.28",
    "rich>=13.7",
    "trio>=0.22",
)
TARGET_PERCENT = 98.0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def fetch_suite() -> Path:
    """The unpacked source distribution; fetched once."""
    folder = CACHE / f"openai-{VERSION}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        say(f"fetching the source of openai {VERSION}")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "openai"]
        subprocess.run([*pip, f"openai=={VERSION}", "--dest", str(CACHE)], check=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as part:
            subprocess.run(["tar", "-x", "-f", CACHE / f"openai-{VERSION}.tar.gz", "-C", part], check=True)
            (Path(part) / folder.name).rename(folder)
    return folder


def suite_python() -> Path:
    """An interpreter with the suite's own version of the SDK, apart from this repository's."""
    folder, mark = CACHE / "venv", CACHE / "venv" / "complete"
    python = folder / "bin" / "python"
    if not mark.exists():
        say("setting up the suite's environment")
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *NEEDED], check=True)
        mark.touch()
    return python


@contextmanager
def server() -> Iterator[dict[str, str]]:
    """The seeded server's addresses: api and door."""
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "tests.conformance.server", home]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SystemExit("the seeded server did not start; see above")
            yield json.loads(line)
        finally:
            process.terminate()
            process.wait(timeout=20)


def run_suite(groups: list[str]) -> dict[str, dict[str, str]]:
    suite, python = fetch_suite(), suite_python()
    paths = [f"tests/api_resources/{group}" for group in groups]
    options = ["-c", "/dev/null", "--rootdir", ".", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]
    options += ["-p", "conformance_plugin", "--quiet", "--tb=line", "--show-capture=no"]
    with server() as addresses, tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        environment = {
            **os.environ,
            "TEST_API_BASE_URL": addresses["api"],
            "CONFORMANCE_DOOR": addresses["door"],
            "CONFORMANCE_REPORT": str(report),
            "CONFORMANCE_ONLY": json.dumps(ONLY),
            "PYTHONPATH": str(PLUGINS),
        }
        command = [
            str(python),
            "-m",
            "pytest",
            *options,
            "-o",
            "asyncio_mode=auto",
            "--tb=line",
            "--show-capture=no",
            *paths,
        ]
        subprocess.run(command, cwd=suite, env=environment, check=False)
        return json.loads(report.read_text())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", help="folders or files of the suite; default: all that are built here")
    arguments = parser.parse_args()
    rows = tally(run_suite(arguments.groups or list(GROUPS)))
    main_rows, administration, refused = parts(rows)
    if not arguments.groups:
        (REPOSITORY / "docs" / "conformance.md").write_text(document(rows, VERSION))
    if administration:
        say(f"administration: {score(administration)}")
    say(f"conformance: {score(main_rows)}")
    passed, total = totals(main_rows)
    num_let_through, _ = totals(refused)
    return 0 if 100 * passed >= TARGET_PERCENT * total and not num_let_through else 1


if __name__ == "__main__":
    raise SystemExit(main())

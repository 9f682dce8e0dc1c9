"""compose.yaml, the Dockerfile and deploy/kubernetes say the same, and docker's own tool can read them."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.containers.compose import DOCKERFILE, REPOSITORY, manifests, read_compose
from tunery.settings import PREFIX, Settings

SECRETS = ("POSTGRES_PASSWORD", "S3_SECRET", "TUNERY_SECRETS_KEY", "TUNERY_ENGINE_API_KEY", "TUNERY_API_KEY")
OURS = {"models", "engine", "api", "worker"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that an installation starts with, and its secrets, as the script makes them."""
    for name in ("compose.yaml", "deploy", "scripts"):
        source = REPOSITORY / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    (tmp_path / "deploy" / "engine.key").unlink(missing_ok=True)
    subprocess.run(["sh", "scripts/make-secrets.sh"], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def secrets_of(checkout: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (checkout / ".env").read_text().splitlines())


def composer() -> list[str]:
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    pytest.fail("This test needs docker compose, and there is none: `sh scripts/install-debian.sh` installs it.")


def test_docker_compose_accepts_the_file(checkout: Path) -> None:
    told = subprocess.run([*composer(), "config"], cwd=checkout, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    services = yaml.safe_load(told.stdout)["services"]
    assert set(services) == {*OURS, "postgres", "s3", "prometheus"}
    assert services["worker"]["deploy"]["replicas"] == 2


def test_without_secrets_compose_starts_nothing(checkout: Path) -> None:
    (checkout / ".env").unlink()
    told = subprocess.run([*composer(), "config"], cwd=checkout, capture_output=True, text=True)
    assert told.returncode != 0 and "scripts/make-secrets.sh" in told.stderr


def test_the_script_makes_secrets_once(checkout: Path) -> None:
    made = secrets_of(checkout)
    assert tuple(made) == SECRETS and len(set(made.values())) == len(SECRETS)
    assert (checkout / ".env").stat().st_mode & 0o077 == 0
    assert (checkout / "deploy" / "engine.key").read_text() == made["TUNERY_ENGINE_API_KEY"]
    again = subprocess.run(["sh", "scripts/make-secrets.sh"], cwd=checkout, capture_output=True)
    assert again.returncode == 1 and secrets_of(checkout) == made


def test_containers_may_do_nothing_but_write_their_volume(checkout: Path) -> None:
    for name, service in read_compose(secrets_of(checkout)).items():
        if name in OURS:
            assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["init"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert service["volumes"] == ["tunery:/var/lib/tunery"], name


def test_every_setting_that_is_given_exists(checkout: Path) -> None:
    given = [name for each in read_compose(secrets_of(checkout)).values() for name in each.get("environment", {})]
    for each in manifests():
        given += {**each.get("data", {}), **each.get("stringData", {})}
    of_tunery = {name.removeprefix(PREFIX).lower() for name in given if name.startswith(PREFIX)}
    assert of_tunery and of_tunery <= set(Settings.model_fields)


def test_kubernetes_runs_what_compose_runs(checkout: Path) -> None:
    services, found = read_compose(secrets_of(checkout)), dict[str, Any]()
    for each in manifests():
        if each["kind"] in ("Deployment", "StatefulSet"):
            pod = each["spec"]["template"]["spec"]
            found[each["metadata"]["name"]] = pod
            assert pod["initContainers"][0]["command"] == services["models"]["command"]
            for container in (*pod["initContainers"], *pod["containers"]):
                walls = container["securityContext"]
                assert walls["readOnlyRootFilesystem"] and not walls["allowPrivilegeEscalation"]
    assert {name: pod["containers"][0]["command"] for name, pod in found.items()} == {
        name: services[name]["command"] for name in ("engine", "api", "worker")
    }


def test_the_image_takes_the_makefiles_torch_and_no_rights() -> None:
    torch = re.findall(r"torch==\S+", DOCKERFILE.read_text())
    assert torch == re.findall(r"torch==\S+", (REPOSITORY / "Makefile").read_text())
    last = DOCKERFILE.read_text().rpartition("FROM ${BASE}")[2]
    assert re.findall(r"^USER (.*)$", last, re.M) == ["10001"]
    assert "HEALTHCHECK" in last and "/health/live" in last

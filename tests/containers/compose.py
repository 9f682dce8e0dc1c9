"""What compose.yaml and the Dockerfile say, read as docker would."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
COMPOSE = REPOSITORY / "compose.yaml"
DOCKERFILE = REPOSITORY / "Dockerfile"
KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
VARIABLE = re.compile(r"\$\{(\w+)(?::(?:-([^}]*)|\?[^}]*))?\}")


@dataclass(frozen=True)
class Service:
    name: str
    command: list[str]
    environment: dict[str, str]
    stop_s: int = 10  # docker's own, before it kills


def read_compose(variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The services. Raises KeyError for a variable that has neither a value nor a default."""
    text = VARIABLE.sub(lambda found: variables.get(found[1]) or _default(found), COMPOSE.read_text())
    return yaml.safe_load(text)["services"]


def _default(found: "re.Match[str]") -> str:
    if found[2] is None:
        raise KeyError(found[1])
    return found[2]


def service_of(name: str, about: Mapping[str, Any]) -> Service:
    environment = {key: str(value) for key, value in about.get("environment", {}).items()}
    return Service(
        name, about["command"], environment, int(str(about.get("stop_grace_period", "10s")).removesuffix("s"))
    )


def image_environment() -> dict[str, str]:
    """What the image sets for every process in it."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    words = [word for line in re.findall(r"^ENV (.*)$", text, re.M) for word in line.split()]
    return dict(word.split("=", 1) for word in words)


def manifests() -> list[dict[str, Any]]:
    """Of deploy/kubernetes, those that it lists."""
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    return [each for name in listed for each in yaml.safe_load_all((KUBERNETES / name).read_text())]

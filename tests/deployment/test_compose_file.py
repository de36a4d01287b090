"""compose.yaml and Dockerfile follow the specification, use existing commands and settings, and are safe."""

import functools
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
from jsonschema import Draft201909Validator

import zoo
from tests.deployment.composition import ROOT, TEXT, VARIABLE, environments, loaded, services

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
#: of the compose specification, Apache-2.0, as Docker's own `docker-compose` 1.29.2 carries it
SCHEMA = json.loads((Path(__file__).parent / "compose_spec.json").read_text(encoding="utf-8"))
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|_KEY$|AUTH$")
OURS = [name for name, settings in services().items() if settings["image"].startswith("adapter-zoo:")]


def test_the_file_keeps_to_the_compose_specification() -> None:
    errors = [
        f"{list(error.path)}: {error.message}" for error in Draft201909Validator(SCHEMA).iter_errors(loaded())
    ]
    assert errors == []


def test_the_specification_is_not_satisfied_by_anything() -> None:
    broken = {"services": {"relay": {**services()["relay"], "comand": ["zoo", "relay"]}}}
    assert not Draft201909Validator(SCHEMA).is_valid(broken)


def test_the_services_are_those_of_a_deployment() -> None:
    assert set(services()) == {
        *("postgres", "broker", "mlflow", "migrate", "relay", "worker-cpu", "worker-gpu-0", "zoo")
    }


def zoo_commands() -> list[tuple[str, list[str]]]:
    """Every command line that starts the zoo, in commands and in health checks."""
    found = []
    for name, settings in services().items():
        check = settings.get("healthcheck", {}).get("test", [])
        lines = (settings.get("command", []), check[1:] if check[:1] == ["CMD"] else [])
        found += [(name, line[1:]) for line in lines if line[:1] == ["zoo"]]
    return found


@pytest.mark.parametrize(("service", "arguments"), zoo_commands())
def test_every_command_is_one_that_the_zoo_takes(service: str, arguments: list[str]) -> None:
    command: click.Command = zoo.cli
    context = click.Context(command, info_name="zoo")
    while isinstance(command, click.Group):
        name, *arguments = arguments
        found = command.get_command(context, name)
        assert found is not None, f"{service}: there is no command {name}"
        command, context = found, click.Context(found, info_name=name, parent=context)
    # Raises for an unknown option or value; runs nothing.
    command.parse_args(context, list(arguments))


def test_there_are_commands_to_check() -> None:
    assert len(zoo_commands()) >= 8


@functools.cache
def read_by_the_zoo() -> set[str]:
    sources = [ROOT / "zoo.py", *(ROOT / "registry").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]
    text = "".join(path.read_text() for path in sources)
    return set(re.findall(r'"((?:ZOO|MLFLOW)_[A-Z_]+[A-Z])"', text))


@functools.cache
def read_by_mlflow() -> set[str]:
    package = find_spec("mlflow")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent
    files = ("environment_variables.py", "cli/__init__.py", "utils/cli_args.py")
    return set(re.findall(r'"(MLFLOW_[A-Z_]+)"', "".join((folder / file).read_text() for file in files)))


@pytest.mark.parametrize(("service", "name", "value"), list(environments()))
def test_every_variable_is_one_that_the_code_reads(service: str, name: str, value: str) -> None:
    if name.startswith("ZOO_"):
        assert name in read_by_the_zoo()
    elif name.startswith("MLFLOW_"):
        assert name in read_by_the_zoo() | read_by_mlflow()
    else:
        assert name in {
            *("HOME", "REDISCLI_AUTH"),
            *("POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "POSTGRES_INITDB_ARGS"),
        }


def test_every_variable_of_the_image_is_one_that_the_code_reads() -> None:
    named = set(re.findall(r"\b((?:ZOO|MLFLOW)_[A-Z_]+)=", DOCKERFILE))
    assert named
    assert named <= read_by_the_zoo() | read_by_mlflow()


def test_no_secret_has_a_default() -> None:
    asked = {found["name"]: str(found["rule"]) for found in VARIABLE.finditer(TEXT)}
    assert set(asked) == {"POSTGRES_PASSWORD", "BROKER_PASSWORD", "MLFLOW_PASSWORD", "MLFLOW_SECRET_KEY"}
    assert all(rule == f":?set {name}" for name, rule in asked.items())
    for service, name, value in environments():
        if SECRET.search(name) and not name.endswith(("_PATH", "_ARGS")):
            assert VARIABLE.fullmatch(value), f"{service}: {name}"
    for _, _, value in environments():
        for account in re.findall(r"://([^/@]*)@", value):
            assert VARIABLE.fullmatch(account.partition(":")[2])


def test_no_secret_is_part_of_a_command_line() -> None:
    for settings in services().values():
        assert not VARIABLE.search(json.dumps(settings.get("command", [])))


def test_every_image_is_pinned() -> None:
    images = [settings["image"] for settings in services().values()]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE)
    assert len(images) > len(services())
    assert all(re.search(r":\d+\.\d+(\.\d+)?(-[\w-]+)?$", image) for image in images)


def test_everything_that_stays_has_a_health_check_and_comes_back() -> None:
    staying = {name: settings for name, settings in services().items() if settings["restart"] != "no"}
    assert set(services()) - set(staying) == {"migrate", "zoo"}
    assert all("healthcheck" in settings for settings in staying.values())


def test_nothing_starts_before_what_it_needs() -> None:
    for name in ("relay", "worker-cpu", "worker-gpu-0"):
        needs = services()[name]["depends_on"]
        assert needs["migrate"]["condition"] == "service_completed_successfully"
        assert needs["broker"]["condition"] == "service_healthy"
    assert services()["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"


def test_every_volume_is_declared_and_every_file_there() -> None:
    declared = set(loaded()["volumes"])
    for settings in services().values():
        for volume in settings.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in declared or (ROOT / source).exists()


@pytest.mark.parametrize("service", OURS)
def test_our_containers_have_no_rights_to_lose(service: str) -> None:
    settings = services()[service]
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert settings["read_only"] is True
    assert "privileged" not in settings


def test_only_mlflow_is_published_and_only_to_this_machine() -> None:
    published = {name: settings["ports"] for name, settings in services().items() if "ports" in settings}
    assert published == {"mlflow": ["127.0.0.1:5000:5000"]}
    assert loaded()["networks"]["services"] == {"internal": True}


def test_mlflow_is_hardened() -> None:
    options = services()["mlflow"]["command"]
    assert "--app-name=basic-auth" in options
    named = [
        option for option in options if option.startswith(("--allowed-hosts=", "--cors-allowed-origins="))
    ]
    assert len(named) == 2
    assert not any("*" in option for option in named)
    environment = services()["mlflow"]["environment"]
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_ALLOW_MODEL_CODE_EXECUTION"] == "false"
    assert "default_permission = NO_PERMISSIONS" in (ROOT / "deployment" / "mlflow_auth.ini").read_text()


def test_the_image_runs_without_rights_and_holds_the_locked_versions() -> None:
    instructions: list[Any] = [line.split() for line in DOCKERFILE.splitlines() if line and line[0].isalpha()]
    users = [words[1] for words in instructions if words[0] == "USER"]
    assert users == ["zoo"]
    assert "--constraint constraints.txt" in DOCKERFILE
    copied = [word for words in instructions if words[0] == "COPY" for word in words[1:-1]]
    assert {"zoo.py", "registry", "xlora_engine", "workers", "migrations"} <= set(copied)
    assert all((ROOT / name).exists() for name in copied)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert {f"!{name}" for name in copied} == {line for line in ignored if line.startswith("!")}


def test_the_extras_that_the_image_installs_exist() -> None:
    asked = re.search(r"'\.\[([\w,-]+)\]'", DOCKERFILE)
    assert asked is not None
    defined = re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert set(asked[1].split(",")) <= set(defined)

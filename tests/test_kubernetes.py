"""The image recipe and the chart's values: what they name is there, and Kubernetes would take it.

Neither was run on a cluster: see docs/operate.md#kubernetes.
"""

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "kubernetes"
VALUES = yaml.safe_load((FOLDER / "values.yaml").read_text("utf-8"))
(CODE,) = VALUES["dagster-user-deployments"]["deployments"]
RECIPE = [
    line.split(maxsplit=1)
    for line in (FOLDER / "Dockerfile").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]


def of(instruction: str) -> list[str]:
    return [rest for name, rest in RECIPE if name == instruction]


def test_what_the_image_copies_is_there() -> None:
    for line in of("COPY"):
        *copied, _ = line.split()
        for name in copied:
            assert (ROOT / name).exists(), name


def test_the_image_is_pinned_and_runs_as_nobody_special() -> None:
    (python,) = (line for line in of("FROM"))
    assert re.fullmatch(r"python:3\.11-slim-\w+", python)
    assert any("-c requirements.lock" in line for line in of("RUN"))
    (user,) = of("USER")
    assert int(user) == CODE["podSecurityContext"]["runAsUser"] > 0


def test_the_command_of_the_image_serves_the_code_location(tmp_path: Path) -> None:
    command = json.loads(of("CMD")[0])
    assert command[-2:] == CODE["dagsterApiGrpcArgs"]
    assert command[command.index("--port") + 1] == str(CODE["port"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command[command.index("--port") + 1] = port
    dagster = [sys.executable, "-W", "ignore", "-m", *command]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(dagster, cwd=ROOT, stdout=log, stderr=log) as server,
    ):
        try:
            check = [*dagster[:4], "dagster", "api", "grpc-health-check", "--port", port]
            while subprocess.run(check, capture_output=True).returncode:
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.5)
        finally:
            server.kill()  # Started in the background, Dagster ignores a polite stop.


def test_kubernetes_would_take_the_pod() -> None:
    """The pod that the chart makes of these values, against the schema of Kubernetes itself."""
    validate = pytest.importorskip("kubernetes_validate")
    container: dict[str, Any] = {
        "name": CODE["name"],
        "image": f"{CODE['image']['repository']}:{CODE['image']['tag']}",
        "imagePullPolicy": CODE["image"]["pullPolicy"],
        "ports": [{"containerPort": CODE["port"]}],
        "env": CODE["env"],
        "envFrom": [{"secretRef": secret} for secret in CODE["envSecrets"]],
        "securityContext": CODE["securityContext"],
        "resources": CODE["resources"],
        "volumeMounts": CODE["volumeMounts"],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": CODE["name"]},
        "spec": {
            "containers": [container],
            "volumes": CODE["volumes"],
            "securityContext": CODE["podSecurityContext"],
        },
    }
    validate.validate(pod, "1.33.0", strict=True)
    assert {each["name"] for each in CODE["volumeMounts"]} == {
        each["name"] for each in CODE["volumes"]
    }
    with pytest.raises(validate.ValidationError):
        validate.validate({**pod, "spec": {"container": [container]}}, "1.33.0", strict=True)


def test_dagster_would_start_a_run_with_the_same_settings() -> None:
    """What a run's pod is given, against Dagster's own schema of it."""
    context = pytest.importorskip("dagster_k8s.container_context")
    named = {
        "env": CODE["env"],
        "env_secrets": [each["name"] for each in CODE["envSecrets"]],
        "volumes": CODE["volumes"],
        "volume_mounts": CODE["volumeMounts"],
        "resources": CODE["resources"],
        "security_context": CODE["securityContext"],
        "image_pull_policy": CODE["image"]["pullPolicy"],
    }
    held = context.K8sContainerContext.create_from_config({"k8s": named})
    assert held.run_k8s_config.container_config["resources"] == CODE["resources"]


def test_the_chart_keeps_what_the_projects_own_instance_says() -> None:
    here = yaml.safe_load((ROOT / "dagster_home" / "dagster.yaml").read_text("utf-8"))
    chart = VALUES["concurrency"]
    assert chart["pools"]["defaultLimit"] == here["concurrency"]["pools"]["default_limit"]
    runs = here["concurrency"]["runs"]["max_concurrent_runs"]
    assert chart["runs"]["maxConcurrentRuns"] == runs
    logs = here["python_logs"]
    assert VALUES["pythonLogs"]["managedPythonLoggers"] == logs["managed_python_loggers"]
    assert VALUES["telemetry"] == here["telemetry"]

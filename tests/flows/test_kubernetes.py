"""The Kubernetes objects of infra/ against the schemas of those who read them; no cluster is there to try them on."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from referencing import Registry, Resource

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "tests/data/schemas"
MANIFESTS = {"raycluster.yaml": "raycluster.json", "worker.yaml": "kubernetes.json#/$defs/io.k8s.api.apps.v1.Deployment"}
SECRETS = ("PASSWORD", "TOKEN", "SECRET", "AUTH_STRING", "ACCESS_KEY")


def manifest(name: str) -> Any:
    return yaml.safe_load((ROOT / "infra/k8s" / name).read_text())


def complaints(name: str, given: Any) -> list[str]:
    known = ((file.name, Resource.from_contents(json.loads(file.read_text()))) for file in SCHEMAS.glob("*.json"))
    validator = Draft202012Validator({"$ref": MANIFESTS[name]}, registry=Registry().with_resources(known))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(given)]


@pytest.mark.parametrize("name", MANIFESTS)
def test_each_object_is_what_its_schema_wants(name: str) -> None:
    assert {file.name for file in (ROOT / "infra/k8s").glob("*.yaml")} == set(MANIFESTS)
    assert complaints(name, manifest(name)) == []


@pytest.mark.parametrize(
    "name, right, wrong",
    [
        ("raycluster.yaml", "rayStartParams", "rayStartParam"),
        ("raycluster.yaml", "minReplicas: 1", "minReplicas: one"),
        ("raycluster.yaml", '{num-cpus: "0"', "{num-cpus: 0"),
        ("raycluster.yaml", "secretKeyRef: {name: saemill-ray, key: auth_token}", "secretKeyRef: {name: saemill-ray}"),
        ("raycluster.yaml", "containerPort: 6379", "containerPort: gcs"),
        ("worker.yaml", "envFrom:", "envfrom:"),
        ("worker.yaml", "strategy: {type: Recreate}", "strategy: Recreate"),
        ("worker.yaml", "mountPath:", "path:"),
        ("worker.yaml", "selector:", "select:"),
    ],
)
def test_what_is_misspelt_is_found(name: str, right: str, wrong: str) -> None:
    text = (ROOT / "infra/k8s" / name).read_text()
    assert right in text
    assert complaints(name, yaml.safe_load(text.replace(right, wrong))) != []


def test_every_pod_asks_for_rays_token_and_takes_it_from_a_secret() -> None:
    cluster = manifest("raycluster.yaml")["spec"]
    templates = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"], manifest("worker.yaml")["spec"]]
    for template in templates:
        (container,) = template["template"]["spec"]["containers"]
        found = {one["name"]: one for one in container["env"]}
        assert found["RAY_AUTH_MODE"]["value"] == "token"
        assert found["RAY_AUTH_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "saemill-ray", "key": "auth_token"}}
        assert not [name for name in found if any(word in name for word in SECRETS) and "value" in found[name]]


def test_only_the_worker_knows_prefects_password() -> None:
    assert "saemill-prefect" not in (ROOT / "infra/k8s/raycluster.yaml").read_text()
    (container,) = manifest("worker.yaml")["spec"]["template"]["spec"]["containers"]
    assert {"secretRef": {"name": "saemill-prefect"}} in container["envFrom"]

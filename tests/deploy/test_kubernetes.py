"""deploy/kubernetes: every manifest follows the schemas of Kubernetes, and what it names exists.

No cluster and no kubectl is needed, and none is used: `kubectl kustomize` builds the overlays (deploy/README.md).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]  # it ships no types
import pytest

from tests.deploy.shipped import CONFIG, DEPLOY, below, documents, image_environment, parse, readable, stop_seconds
from worker.settings import Settings, load_settings, with_elasticsearch_secrets, with_secrets

FOLDER = DEPLOY / "kubernetes"
VERSIONS = ["1.27", "1.31", "1.34", "1.37"]
"""The oldest that has all fields, those of today, and the newest that the validator knows."""
FILES = below(FOLDER, "*.yaml")
LISTS = [path for path in FILES if path.name == "kustomization.yaml"]
CONFIGS = below(FOLDER, "*.toml")
EXTENSIONS = {"ScaledObject", "TriggerAuthentication", "ServiceMonitor"}
PODS = {"StatefulSet", "Deployment", "Job"}


def kustomization(path: Path) -> dict[str, Any]:
    """Return what a kustomization.yaml says."""
    content: dict[str, Any]
    (content,) = documents(path)
    return content


def patch_paths() -> set[Path]:
    """Return the files that change others."""
    return {path.parent / patch["path"] for path in LISTS for patch in kustomization(path).get("patches", [])}


def manifests() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Return every resource, with its file."""
    for path in FILES:
        if path not in LISTS and path not in patch_paths():
            for document in documents(path):
                yield path, document


MANIFESTS = list(manifests())
TEMPLATES = [(each["metadata"]["name"], each["spec"]["template"]) for _, each in MANIFESTS if each["kind"] in PODS]
STANDARD = [(path, each) for path, each in MANIFESTS if each["kind"] not in EXTENSIONS]


def only(kind: str, name: str = "modelvigil") -> dict[str, Any]:
    """Return the one resource of this kind and name."""
    (found,) = [each for _, each in MANIFESTS if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Return each container with the name of its resource."""
    for name, template in TEMPLATES:
        for container in template["spec"]["containers"]:
            yield name, container


# Schemas.


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_follow_the_schema(version: str) -> None:
    """Every resource of Kubernetes itself is valid, without a field that this version does not know."""
    assert len(STANDARD) >= 15
    for path, manifest in STANDARD:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{path.relative_to(FOLDER)}: {error.message}")


def merged(base: Any, patch: Any) -> Any:  # noqa: ANN401 - whatever YAML can hold
    """Apply a strategic patch, as far as such patches go here: items of a list with equal names are one item."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {key: merged(base.get(key), value) for key, value in patch.items()}
    if isinstance(base, list) and isinstance(patch, list):
        by_name = {item.get("name", place): item for place, item in enumerate(base)}
        added = {item.get("name", f"added {place}"): item for place, item in enumerate(patch)}
        return list(merged(by_name, added).values())
    return patch


def test_patched_manifests_follow_the_schema_too() -> None:
    """A patch in the form of a resource has no field that is not one, and changes the resource that it names."""
    partial = [document for path in patch_paths() for document in documents(path) if isinstance(document, dict)]
    assert len(partial) == 2
    for patch in partial:
        base = only(patch["kind"], patch["metadata"]["name"])
        result = merged(base, patch)
        assert result != base
        assert len(result["spec"]["template"]["spec"]["containers"]) == 1
        kubernetes_validate.validate(result, VERSIONS[-1], strict=True)


_TEXT = {"type": "string", "minLength": 1}
_REFERENCE = {"type": "object", "required": ["name"], "properties": {"name": _TEXT}, "additionalProperties": False}


def _table(required: list[str], **properties: object) -> dict[str, Any]:
    """Return the schema of a table that has these fields and no others."""
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def _list(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": item}


_RULES = _table(
    ["policies"],
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    policies=_list(
        _table(
            ["type", "value", "periodSeconds"],
            type={"enum": ["Pods", "Percent"]},
            value={"type": "integer", "minimum": 1},
            periodSeconds={"type": "integer", "minimum": 1, "maximum": 1800},
        )
    ),
)
_SPECS = {
    # Of KEDA 2.14 and the Prometheus operator 0.70, as far as they are used here: their definitions are not at hand.
    "ScaledObject": _table(
        ["scaleTargetRef", "triggers"],
        scaleTargetRef=_table(["name"], apiVersion=_TEXT, kind=_TEXT, name=_TEXT),
        pollingInterval={"type": "integer"},
        minReplicaCount={"type": "integer", "minimum": 0},
        maxReplicaCount={"type": "integer", "minimum": 1},
        advanced=_table(
            [], horizontalPodAutoscalerConfig=_table([], behavior=_table([], scaleUp=_RULES, scaleDown=_RULES))
        ),
        triggers=_list(
            _table(
                ["type", "metadata"],
                type={"const": "kafka"},
                authenticationRef=_REFERENCE,
                metadata=_table(
                    ["bootstrapServers", "consumerGroup", "topic", "lagThreshold"],
                    bootstrapServers=_TEXT,
                    consumerGroup=_TEXT,
                    topic=_TEXT,
                    lagThreshold={"type": "string", "pattern": "^[1-9][0-9]*$"},
                    offsetResetPolicy={"enum": ["earliest", "latest"]},
                    allowIdleConsumers={"enum": ["true", "false"]},
                ),
            )
        ),
    ),
    "TriggerAuthentication": _table(
        ["secretTargetRef"],
        secretTargetRef=_list(
            _table(
                ["parameter", "name", "key"],
                parameter={"enum": ["sasl", "username", "password", "tls", "ca", "cert", "key"]},
                name=_TEXT,
                key=_TEXT,
            )
        ),
    ),
    "ServiceMonitor": _table(
        ["selector", "endpoints"],
        jobLabel=_TEXT,
        selector=_table([], matchLabels={"type": "object", "additionalProperties": _TEXT}),
        endpoints=_list(
            _table(
                ["port"],
                port=_TEXT,
                path=_TEXT,
                interval={"type": "string", "pattern": "^[0-9]+s$"},
                scrapeTimeout={"type": "string", "pattern": "^[0-9]+s$"},
            )
        ),
    ),
}
_VERSIONS = {
    "ScaledObject": "keda.sh/v1alpha1",
    "TriggerAuthentication": "keda.sh/v1alpha1",
    "ServiceMonitor": "monitoring.coreos.com/v1",
}


@pytest.mark.parametrize("kind", sorted(EXTENSIONS))
def test_extensions_have_only_fields_that_there_are(kind: str) -> None:
    """Resources of KEDA and of the Prometheus operator have the form that these document."""
    manifest = only(kind)
    assert manifest["apiVersion"] == _VERSIONS[kind]
    jsonschema.validate(manifest["spec"], _SPECS[kind])


def test_a_mistake_is_noticed() -> None:
    """The checks can fail: a field that is not one, of Kubernetes and of KEDA."""
    wrong = only("PodDisruptionBudget") | {"spec": {"maxUnavailabel": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(only("ScaledObject")["spec"] | {"maxReplicas": 3}, _SPECS["ScaledObject"])


# Kustomize.


def named_in(path: Path) -> set[Path]:
    """Return the files and folders that a kustomization.yaml names."""
    content = kustomization(path)
    names = [*content.get("resources", []), *content.get("components", [])]
    names += [patch["path"] for patch in content.get("patches", [])]
    names += [file for generator in content.get("configMapGenerator", []) for file in generator.get("files", [])]
    return {(path.parent / name).resolve() for name in names}


def test_what_kustomizations_name_is_there_and_nothing_is_left_over() -> None:
    """Each named file exists, each named folder has a kustomization.yaml, and each file belongs to one."""
    named = set().union(*map(named_in, LISTS))
    for path in named:
        assert path.is_file() or (path / "kustomization.yaml").is_file(), path
    for path in [*FILES, *CONFIGS]:
        assert path in named or path in LISTS, path
    components = {path.parent for path in LISTS if kustomization(path)["kind"] == "Component"}
    assert components == {path for path in named if path.parent.name == "components"}


def test_a_patch_of_one_field_finds_it() -> None:
    """A JSON patch that replaces something has something to replace, and one that adds has where to."""
    patches = [step for path in patch_paths() for steps in lists_in(path) for step in steps]
    assert len(patches) == 7
    for step in patches:
        targets = [only("ScaledObject")] if "/triggers/" in step["path"] else workloads()
        for target in targets:
            *parents, last = step["path"].strip("/").split("/")
            value: Any = target
            for name in parents:
                value = value[int(name)] if isinstance(value, list) else value[name]
            assert step["op"] == "add" or last in value
            assert isinstance(value, list) == (last == "-")


def lists_in(path: Path) -> list[list[dict[str, Any]]]:
    """Return the JSON patches of a file, if it has any."""
    return [document for document in documents(path) if isinstance(document, list)]


def workloads() -> list[dict[str, Any]]:
    """Return everything that runs pods."""
    return [each for _, each in MANIFESTS if each["kind"] in PODS]


# What runs in the pods.


@pytest.mark.parametrize(("name", "container"), list(containers()), ids=[name for name, _ in containers()])
def test_commands_are_known_and_find_their_settings(name: str, container: dict[str, Any]) -> None:
    """Every command line parses, and its configuration is where it is mounted."""
    options = parse(container["args"])
    assert str(options["config"]) == CONFIG
    assert container["image"] == "modelvigil"
    spec = next(template["spec"] for each, template in TEMPLATES if each == name)
    volumes = {volume["name"] for volume in spec["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == volumes
    assert mounts[str(Path(CONFIG).parent)] == "config"
    assert {"/tmp", image_environment()["NUMBA_CACHE_DIR"]} <= set(mounts)  # noqa: S108 - a path in a container


def access() -> dict[str, str]:
    """Return the variables that the component `secured` sets."""
    (generator,) = kustomization(FOLDER / "components" / "secured" / "kustomization.yaml")["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in generator["literals"])


def settings_of(config: Path, environment: dict[str, str]) -> Settings:
    """Return the settings of a worker in a pod."""
    named = {"MODELVIGIL_INSTANCE_ID": "modelvigil-0"}
    return load_settings(config, image_environment() | named | environment, {"worker.static_membership": True})


@pytest.mark.parametrize("config", CONFIGS, ids=[path.parent.name for path in CONFIGS])
def test_settings_are_known_with_and_without_secrets(config: Path, tmp_path: Path) -> None:
    """The TOML files, and the variables that overlays add, are accepted; secrets come from files."""
    plain = settings_of(config, {})
    assert plain.worker.instance_id == "modelvigil-0"
    assert plain.kafka.properties == {}
    secured = with_elasticsearch_secrets(with_secrets(settings_of(config, readable(access(), tmp_path))))
    assert secured.kafka.properties["security.protocol"] == "SASL_SSL"
    assert secured.kafka.properties["sasl.password"] == "hidden"
    assert repr("hidden") == repr(secured.elasticsearch.password)


def test_secrets_are_files() -> None:
    """No literal is a secret; each named file is a key of the Secret, mounted where it is looked for."""
    given = access()
    assert all(value.startswith("/run/secrets/modelvigil/") for name, value in given.items() if "PASSWORD" in name)
    (steps,) = lists_in(FOLDER / "components" / "secured" / "secret-mount.yaml")
    mount = next(step["value"] for step in steps if step["path"].endswith("volumeMounts/-"))
    assert mount["mountPath"] == "/run/secrets/modelvigil"
    keys = {Path(value).name for value in given.values() if value.startswith("/run/")}
    keys |= {each["key"] for each in only("TriggerAuthentication")["spec"]["secretTargetRef"]}
    told = (DEPLOY / "README.md").read_text(encoding="utf-8")
    for key in keys:
        assert f"--from-file={key}=" in told, key


def test_a_worker_may_stop_for_as_long_as_it_needs() -> None:
    """The grace period is longer than the longest hand-over, a commit that fails, and the watchdog."""
    grace_s = only("StatefulSet")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    for config in CONFIGS:
        assert grace_s > stop_seconds(settings_of(config, {}))


def test_probes_ask_for_pages_at_the_port_that_is_served() -> None:
    """Probes ask at the named port, which is that of the image; liveness is no sooner than the watchdog."""
    probed = [container for _, container in containers() if "livenessProbe" in container]
    assert len(probed) == 3
    for container in probed:
        assert container["ports"] == [{"name": "ops", "containerPort": int(image_environment()["MODELVIGIL_OPS_PORT"])}]
        pages = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
        assert {page["port"] for page in pages.values()} == {"ops"}
        assert {name: page["path"] for name, page in pages.items()} == {
            "startupProbe": "/healthz",
            "livenessProbe": "/healthz",
            "readinessProbe": "/readyz",
        }
    startup = only("StatefulSet")["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300


@pytest.mark.parametrize(("name", "template"), TEMPLATES, ids=[name for name, _ in TEMPLATES])
def test_pods_keep_to_the_restricted_standard(name: str, template: dict[str, Any]) -> None:
    """Pod Security Standard `restricted`, a read-only root, no token, no service links, bounded memory and disk."""
    spec = template["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] >= 10_000
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["shareProcessNamespace"] is True
    assert spec["serviceAccountName"] == only("ServiceAccount")["metadata"]["name"], name
    for volume in spec["volumes"]:
        assert "configMap" in volume or volume["emptyDir"]["sizeLimit"]
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}


# How the parts fit together.


def labels_of(template: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the labels of a pod; kustomize adds `part-of` to all."""
    return {*template["metadata"]["labels"].items(), ("app.kubernetes.io/part-of", "modelvigil")}


def test_selectors_select() -> None:
    """Services, budgets, policies and workloads select pods that there are."""
    for path, manifest in MANIFESTS:
        spec = manifest.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector")
        if not selector or manifest["kind"] == "ServiceMonitor":
            continue
        expressions = selector.get("matchExpressions", []) if isinstance(selector, dict) else []
        wanted = [{(each["key"], value)} for each in expressions for value in each["values"]]
        labels = selector.get("matchLabels", {} if expressions else selector)
        for some in wanted or [set(labels.items())]:
            assert any(some <= labels_of(template) for _, template in TEMPLATES), path


def test_every_workload_gets_the_label_that_the_network_policy_goes_by() -> None:
    """`part-of` is added to templates, too, wherever something runs."""
    for path in LISTS:
        if any(each["kind"] in PODS for file, each in MANIFESTS if file.parent == path.parent):
            assert kustomization(path)["labels"] == [
                {"pairs": {"app.kubernetes.io/part-of": "modelvigil"}, "includeTemplates": True}
            ]


def test_membership_is_static_and_named_by_the_pod() -> None:
    """A pod is the same member, and the same producer, when it comes back, and has the time to come back."""
    (worker,) = only("StatefulSet")["spec"]["template"]["spec"]["containers"]
    assert worker["args"][-2:] == ["--set", "worker.static_membership=true"]
    name, session = worker["env"]
    assert name["name"] == "MODELVIGIL_INSTANCE_ID"
    assert name["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    properties = load_settings(None, {session["name"]: session["value"]}, {}).kafka.properties
    assert int(properties["session.timeout.ms"]) >= 20_000
    assert "replicas" not in only("StatefulSet")["spec"]
    assert only("StatefulSet")["spec"]["serviceName"] == only("Service")["metadata"]["name"]


def test_there_are_never_more_workers_than_partitions() -> None:
    """KEDA's maximum is the number of partitions that the Job creates, for the group and the topic of the settings."""
    scaled = only("ScaledObject")["spec"]
    partitions = parse(only("Job", "modelvigil-topics")["spec"]["template"]["spec"]["containers"][0]["args"])
    assert scaled["minReplicaCount"] < scaled["maxReplicaCount"] == partitions["partitions"]
    (trigger,) = scaled["triggers"]
    settings = load_settings(FOLDER / "base" / "modelvigil.toml", {}, {})
    asked = trigger["metadata"]
    assert asked["bootstrapServers"] == settings.kafka.bootstrap_servers
    assert (asked["consumerGroup"], asked["topic"]) == (settings.kafka.group_id, settings.topics.predictions)
    assert asked["offsetResetPolicy"] == settings.worker.start_at
    assert asked["allowIdleConsumers"] == "false"
    assert scaled["scaleTargetRef"]["name"] == only("StatefulSet")["metadata"]["name"]
    behaviour = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert (
        behaviour["scaleDown"]["stabilizationWindowSeconds"] >= 10 * behaviour["scaleUp"]["stabilizationWindowSeconds"]
    )


def test_prometheus_gets_the_jobs_that_rules_go_by() -> None:
    """The job label of each Service that is scraped is a job of deploy/prometheus/prometheus.yml."""
    monitor = only("ServiceMonitor")["spec"]
    (configuration,) = documents(DEPLOY / "prometheus" / "prometheus.yml")
    jobs = {job["job_name"] for job in configuration["scrape_configs"]}
    services = [each for _, each in MANIFESTS if each["kind"] == "Service"]
    assert {service["metadata"]["labels"][monitor["jobLabel"]] for service in services} == jobs
    assert {port["name"] for service in services for port in service["spec"]["ports"]} == {
        monitor["endpoints"][0]["port"]
    }


def test_overlays_ask_kafka_at_one_address() -> None:
    """Production has another port than base (TLS): the settings and KEDA have the same one."""
    (steps,) = lists_in(FOLDER / "overlays" / "production" / "scaledobject.yaml")
    settings = load_settings(FOLDER / "overlays" / "production" / "modelvigil.toml", {}, {})
    assert steps[0]["path"].endswith("/bootstrapServers")
    assert steps[0]["value"] == settings.kafka.bootstrap_servers
    port = int(settings.kafka.bootstrap_servers.rpartition(":")[2])
    allowed = {each["port"] for rule in only("NetworkPolicy")["spec"]["egress"] for each in rule["ports"]}
    assert {53, 9092, port} <= allowed


def test_namespaces_enforce_the_standard_that_pods_keep_to() -> None:
    """Each overlay makes the namespace that it uses, with Pod Security at `restricted`."""
    for overlay in ("dev", "production"):
        folder = FOLDER / "overlays" / overlay
        (namespace,) = documents(folder / "namespace.yaml")
        assert namespace["metadata"]["name"] == kustomization(folder / "kustomization.yaml")["namespace"]
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_no_registry_and_no_moving_tag() -> None:
    """Overlays pin the image; where it comes from is the operator's to say."""
    for overlay in ("dev", "production"):
        (image,) = kustomization(FOLDER / "overlays" / overlay / "kustomization.yaml")["images"]
        assert re.fullmatch(r"\d[\w.]*", image["newTag"])

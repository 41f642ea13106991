"""The examples: they are what rendering gives today, and every configuration that was asked for is among them."""

from pathlib import Path

import yaml

from endpoints.examples import FOLDER, examples
from endpoints.reading import HERE, known
from endpoints.render import Order, Rendered, render

RENDERED = {example.name: example for example in examples()}


def test_the_examples_are_what_render_gives_today() -> None:
    committed = {
        str(path.relative_to(FOLDER)): path.read_text()
        for path in FOLDER.rglob("*")
        if path.is_file() and path.parent != FOLDER
    }
    rendered = {f"{name}/{file}": text for name, one in RENDERED.items() for file, text in one.files.items()}
    assert committed.keys() == rendered.keys(), "run: python -m endpoints.examples"
    for name, text in rendered.items():
        assert committed[name] == text, f"{name} is old; run: python -m endpoints.examples"


def test_rendering_twice_gives_the_same() -> None:
    assert {one.name: one.files for one in examples()} == {name: one.files for name, one in RENDERED.items()}


def test_the_examples_do_not_depend_on_whose_home_it_is() -> None:
    home = str(Path.home())
    for name, one in RENDERED.items():
        for file, text in one.files.items():
            assert home not in text, f"{name}/{file}"


def test_every_site_and_model_is_in_an_example() -> None:
    told = yaml.safe_load((HERE / "examples.yaml").read_text()).values()
    assert {one["site"] for one in told} == set(known("sites"))
    assert {one["model"] for one in told if "model" in one} == set(known("models"))


def template(name: str) -> str:
    return RENDERED[name].files["user_config_template.yaml.j2"]


def config(one: Rendered) -> dict[str, object]:
    found = yaml.safe_load(one.files["config.yaml"])
    assert isinstance(found, dict)
    return found


def test_no_example_has_an_engine_in_its_config() -> None:
    for one in RENDERED.values():
        assert "engine" not in config(one)


def test_what_each_configuration_is_about_stands_in_its_files() -> None:
    assert "LocalProvider" in template("local-workstation")
    for name in ("sophia-single-node", "polaris-single-node", "pbs-generic"):
        assert "PBSProProvider" in template(name)
        assert "nodes_per_block: 1\n" in template(name)
    for name, nodes in (("sophia-multi-node", 4), ("polaris-multi-node", 8), ("slurm-multi-node", 8)):
        assert f"nodes_per_block: {nodes}\n" in template(name)
        assert "--reach" in template(name)
        assert "SimpleLauncher" in template(name)
    for name in ("delta", "expanse", "anvil", "slurm-generic"):
        assert "SlurmProvider" in template(name)
    assert "--enable-auto-tool-choice --tool-call-parser llama3_json" in template("sophia-tool-calling")
    assert "--runner pooling" in template("sophia-embeddings")
    assert ";batch=1" in template("sophia-batch")
    for name in ("sophia-queue-status", "slurm-queue-status"):
        assert "LocalProvider" in template(name)
        assert config(RENDERED[name])["allowed_functions"] == [
            "12345678-1234-4234-8234-123456789ab5",
            "12345678-1234-4234-8234-123456789ab6",
        ]
    for kind in ("apptainer", "docker", "podman", "custom"):
        assert f'container_type: "{kind}"' in template(f"container-{kind}")
    assert "min_blocks: 1\n" in template("hot-nodes")
    assert "idle_heartbeats_soft: 0\n" in template("hot-nodes")
    assert "max_blocks: 4\n" in template("autoscaling")
    assert config(RENDERED["amqp-port"])["amqp_port"] == 5671
    assert "globus_compute_sdk.serialize.JSONData" in template("allowed-serializers")


def test_a_multi_user_endpoint_has_a_mapping_a_policy_and_limits() -> None:
    one = RENDERED["multi-user"]
    assert config(one)["identity_mapping_config_path"] == "/opt/weft/endpoints/multi-user/identity_mapping.json"
    assert config(one)["authentication_policy"] == "d6071efc-c182-432d-a757-0fd8d975146c"
    assert '"pi-chard"' in one.files["user_config_schema.json"]
    assert "allowed_functions" not in config(RENDERED["multi-user-allow-lists"])
    assert "_GC.mapped_identity.local.uname in ('ada', 'weft',)" in template("multi-user-allow-lists")


def test_a_high_assurance_endpoint_is_encrypted_and_logs_and_allows_its_own_functions() -> None:
    told = config(RENDERED["high-assurance"])
    assert told["high_assurance"] is True
    assert told["audit_log_path"] == "/var/log/globus-compute-audit.log"
    assert "12345678-1234-4234-8234-123456789ab7" in str(told["allowed_functions"])
    assert "encrypted: true\n" in template("high-assurance")
    assert "12345678-1234-4234-8234-123456789ab7" not in str(config(RENDERED["delta"])["allowed_functions"])


def test_the_unit_starts_the_endpoint_of_its_folder() -> None:
    unit = RENDERED["on-boot"].files["globus-compute-endpoint-on-boot.service"]
    assert "Environment=GLOBUS_COMPUTE_USER_DIR=/opt/weft/endpoints\n" in unit
    assert "ExecStart=/opt/weft/agent/bin/globus-compute-endpoint start on-boot\n" in unit


def test_the_unit_knows_the_endpoint_by_its_folder_whatever_its_name() -> None:
    order = Order("local", "opt-125m", overrides=["any_function=true", "systemd={}"], name="x", folder="/srv/e/chat")
    unit = render(order, None).files["globus-compute-endpoint-chat.service"]
    assert "GLOBUS_COMPUTE_USER_DIR=/srv/e\n" in unit
    assert "globus-compute-endpoint start chat\n" in unit

"""Sites, models, settings and functions as they are read, and what is refused."""

import re
from pathlib import Path

import pytest

from endpoints.functions import read_functions
from endpoints.mistakes import EndpointFilesError
from endpoints.reading import HERE, convert, read, with_overrides
from endpoints.render import Order, render
from endpoints.settings import Settings
from endpoints.site import Site


def refused(order: Order) -> str:
    with pytest.raises(EndpointFilesError) as caught:
        render(order, None)
    return str(caught.value)


ANY = ["any_function=true"]


def test_an_unknown_site_is_told_the_nearest() -> None:
    assert "the nearest known is 'delta'" in refused(Order("dleta", "opt-125m"))
    assert "the nearest known is 'opt-125m'" in refused(Order("local", "opt-125"))


def test_unknown_keys_are_refused_at_any_depth_with_the_nearest() -> None:
    assert "'gpu_per_node'; the nearest known is 'gpus_per_node'" in refused(
        Order("local", "opt-125m", overrides=["site.gpu_per_node=2"])
    )
    assert "'walltime.max'; the nearest known is 'maximum'" in refused(
        Order("delta", "opt-125m", overrides=["site.walltime.max=2"])
    )
    assert "'min_block'; the nearest known is 'min_blocks'" in refused(
        Order("local", "opt-125m", overrides=["min_block=2"])
    )
    assert "'function_users.0.user'; the nearest known is 'users'" in refused(
        Order("local", "opt-125m", settings={"function_users": [{"user": ["a"], "functions": []}]})
    )


def test_a_wrong_type_is_told_with_its_place() -> None:
    assert "'task_slots': expected `int`, got `str`" in refused(Order("local", "opt-125m", overrides=["task_slots=a"]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["site.scheduler=slurmm"], "The site local: 'scheduler' cannot be 'slurmm'; it is one of "),
        (["site.container={type: dokcer}"], "'container.type' cannot be 'dokcer'; it is one of apptainer, custom, "),
        (["purpose=batsh"], "The endpoint's settings: 'purpose' cannot be 'batsh'; it is one of batch, "),
        (["site.queue=debug"], "'queue': expected `mapping | nothing`, got `str`"),
        (["site.proxy={}"], "'proxy.url' is missing"),
        (["model.nodes=0"], "The model opt-125m: 'nodes': expected `int` >= 1"),
        (["model.gpu_memory_utilization=90"], "'gpu_memory_utilization': expected `float` <= 1"),
        (["site.queue=["], "The value of --set site.queue is not YAML: "),
    ],
)
def test_what_is_wrong_is_told_in_an_administrators_words(changes: list[str], said: str) -> None:
    assert said in refused(Order("local", "opt-125m", overrides=changes))


def test_a_fault_of_the_yaml_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("about: mine\nscheduler: slurm\nqueue: default: gpu\n")
    said = refused(Order(str(file), "opt-125m"))
    assert said.startswith(f"{file} is not YAML: ")
    assert said.endswith("in line 3, column 15.")


def test_a_time_needs_no_quotes(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("about: mine\nscheduler: slurm\nwalltime: {default: 12:00:00, maximum: 24:00:00}\n")
    rendered = render(Order(str(file), "opt-125m", overrides=[*ANY, "site.walltime.default=10:30:00"]), None)
    assert "default('\"10:30:00\"')" in rendered.files["user_config_template.yaml.j2"]
    assert "up to 24:00:00" in rendered.files["user_config_schema.json"]


@pytest.mark.parametrize("text", ["nonsense", "=1"])
def test_an_override_is_a_key_and_a_value(text: str) -> None:
    assert "KEY=VALUE" in refused(Order("local", "opt-125m", overrides=[text]))


def test_settings_change_the_site_and_overrides_the_settings() -> None:
    site = {"account": {"default": "a"}, "about": "", "scheduler": "slurm"}
    settings = {"site": {"account": {"allowed": ["a", "b"]}}, "min_blocks": 1}
    site, _, changed = with_overrides(site, {}, settings, ["site.account.default=b", "min_blocks=0"])
    assert site["account"] == {"default": "b", "allowed": ["a", "b"]}
    assert changed == {"min_blocks": 0}
    assert settings["site"] == {"account": {"allowed": ["a", "b"]}}, "what was given is not changed"


def test_a_site_of_ones_own_is_one_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("about: mine\nscheduler: slurm\nqueue: {default: gpu}\nfolder: /srv/weft\n")
    rendered = render(Order(str(file), "opt-125m", overrides=ANY), None)
    assert (rendered.name, rendered.folder) == ("mine-opt-125m", "/srv/weft/mine-opt-125m")


def test_the_site_and_the_model_of_the_readme_are_rendered(tmp_path: Path) -> None:
    section = (HERE / "README.md").read_text().partition("## A site and a model of your own\n")[2].partition("\n## ")[0]
    site, model = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    (tmp_path / "my-site.yaml").write_text(site)
    (tmp_path / "my-model.yaml").write_text(model)
    order = Order(str(tmp_path / "my-site.yaml"), str(tmp_path / "my-model.yaml"), overrides=ANY)
    rendered = render(order, None)
    assert rendered.folder == "/shared/weft/endpoints/my-site-my-model"
    template = rendered.files["user_config_template.yaml.j2"]
    assert (
        "--model /shared/models/Mistral-7B-Instruct-v0.3 --served-name mistralai/Mistral-7B-Instruct-v0.3" in template
    )
    assert "--tool-call-parser mistral" in template


def test_every_site_that_comes_with_weft_is_well_formed() -> None:
    name, tree = read("sites", "sophia")
    assert convert(Site, tree, name).gpus_per_node == 8


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (Order("local"), "needs --model"),
        (Order("local", "opt-125m", overrides=["purpose=queue-status"]), "leave out --model"),
        (Order("local", "opt-125m"), "give --functions functions.yaml"),
        (Order("local", "llama-3.1-8b", overrides=ANY), "wants 8 x 1 = 8 GPUs"),
        (Order("local", "opt-125m", overrides=[*ANY, "model.nodes=2"]), "does not say how a job reaches"),
        (
            Order("local", "opt-125m", overrides=[*ANY, "model.nodes=2", "site.reach=rsh"]),
            "does not say how a job reaches",
        ),
        (Order("local", "opt-125m", overrides=[*ANY, "model.name='a;b'"]), "a job's tag cannot hold"),
        (Order("local", "opt-125m", overrides=[*ANY, "min_blocks=2"]), "min_blocks ≤ init_blocks ≤ max_blocks"),
        (Order("local", "opt-125m", overrides=[*ANY, "audit_log=/a"]), "high_assurance=true"),
        (Order("local", "opt-125m", overrides=[*ANY, "high_assurance=true"]), "needs subscription_id"),
        (Order("local", "opt-125m", overrides=[*ANY, "admins=[a]"]), "set subscription_id"),
        (Order("local", "opt-125m", overrides=[*ANY, "email=a@b", "identity_mapping={}"]), "maps nobody"),
        (
            Order("local", "opt-125m", overrides=[*ANY, "email=a@b", "identity_mapping={users: {a@b: root}}"]),
            "makes somebody root",
        ),
        (Order("local", "opt-125m", overrides=[*ANY, "identity_mapping={domains: [b]}"]), "set email"),
        (Order("local", "opt-125m", overrides=[*ANY, "site.container={type: docker}"]), "must name the image"),
        (
            Order("local", "opt-125m", overrides=[*ANY, "site.container={type: docker, uri: 'a b'}"]),
            "blanks, quotes or other characters",
        ),
        (Order("local", "opt-125m", overrides=[*ANY, "site.container={type: custom}"]), "EXECUTOR_RUNDIR"),
        (
            Order("local", "opt-125m", overrides=[*ANY, "model.variables={'A B': c}"]),
            "no name of an environment variable",
        ),
        (Order("local", "opt-125m", overrides=ANY, name="a/b"), "no name for an endpoint"),
        (Order("local", "opt-125m", overrides=ANY, folder="relative"), "absolute path"),
        (
            Order("slurm", "opt-125m", overrides=[*ANY, 'site.scheduler_options=["a\\nb"]']),
            "none may have a line break",
        ),
        (Order("local", "opt-125m", overrides=["function_users=[{users: ['a;'], functions: []}]"]), "functions' UUIDs"),
        (Order("local", "opt-125m", overrides=[*ANY, "systemd={user: 'a b'}"]), "blanks or quotes"),
    ],
)
def test_what_is_refused_and_why(order: Order, said: str) -> None:
    assert said in refused(order)


def functions_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "functions.yaml"
    path.write_text(text)
    return path


NEW, OLD, OTHER = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))


def test_all_versions_are_allowed_newest_first_but_those_of_another_endpoint(tmp_path: Path) -> None:
    path = functions_file(
        tmp_path,
        f"functions: {{probe: [{{uuid: {NEW}}}, {{uuid: {OLD}, ha_endpoint: mine}}, "
        f"{{uuid: {OTHER}, ha_endpoint: x}}]}}",
    )
    functions = read_functions(path)
    assert functions.uuids(("probe",), "mine") == [(NEW, "probe"), (OLD, "probe")]
    assert functions.uuids(("probe",), None) == [(NEW, "probe")]


def test_a_function_that_nobody_registered_is_told_with_the_remedy(tmp_path: Path) -> None:
    functions = read_functions(functions_file(tmp_path, f"functions: {{probe: [{{uuid: {NEW}}}]}}"))
    with pytest.raises(EndpointFilesError, match="weft functions register"):
        functions.uuids(("batch",), None)


@pytest.mark.parametrize(
    "text", ["[]", "functions: 3", "functions: {probe: [{uuid: zzz}]}", "functions: {probe: [{}]}", ": ["]
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(EndpointFilesError):
        read_functions(functions_file(tmp_path, text))


def test_settings_have_the_functions_of_their_purpose() -> None:
    assert Settings().allowed == ("start-worker", "inference", "probe")
    assert Settings(purpose="queue-status").allowed == ("queue-status", "probe")
    assert Settings(functions=("probe",)).allowed == ("probe",)

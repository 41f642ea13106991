"""What `weft endpoints render` writes, judged by the agent's own package; and what `weft endpoints check` says of
folders that are broken in one place each.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from endpoints.agent import run_check
from endpoints.examples import FOLDER, examples
from endpoints.functions import read_functions
from endpoints.mistakes import EndpointFilesError
from endpoints.reading import HERE
from endpoints.render import Order, Rendered, render
from endpoints.writing import write
from services.cli.endpoints import app
from tests.testing.parts import requires_part

pytestmark = requires_part("endpoint")

FUNCTIONS = FOLDER / "functions.yaml"
SENT = {"weft_endpoint": "clusters/site/endpoints/llama", "weft_slot": 3}
REQUIRED = {"account": "proj-1"}
Finding = dict[str, Any]


def python() -> str:
    return os.environ["WEFT_ENDPOINT_PYTHON"]


def check_all(folders: Sequence[Path], *flags: str) -> list[list[Finding]]:
    return run_check(folders, python(), ["--functions", str(FUNCTIONS), *flags])


def check(folder: Path, *flags: str) -> list[Finding]:
    (found,) = check_all([folder], *flags)
    return found


def placed(order: Order, folder: Path) -> Path:
    """Renders an order for this folder, into it."""
    order = Order(order.site, order.model, order.settings, order.overrides, "e", str(folder))
    write(render(order, read_functions(FUNCTIONS)), folder)
    return folder


def render_all(cases: Sequence[tuple[Path, dict[str, Any], str]]) -> list[dict[str, Any]]:
    """What the agent makes of templates for variables: `config`, or why it `refused` them."""
    program = Path(__file__).with_name("render_cases.py")
    told = json.dumps([[str(folder), variables, user] for folder, variables, user in cases])
    done = subprocess.run([python(), str(program)], input=told, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def user_config(folder: Path, variables: dict[str, Any], user: str = "ada") -> dict[str, Any]:
    """What the agent makes of a folder's template, which it must not refuse."""
    (found,) = render_all([(folder, variables, user)])
    assert "config" in found, found
    config = found["config"]
    assert isinstance(config, dict)
    return config


EXAMPLES = list(examples())


@pytest.fixture(scope="module")
def of_examples() -> dict[str, list[Finding]]:
    """What is found in each example."""
    names = [example.name for example in EXAMPLES]
    return dict(zip(names, check_all([FOLDER / name for name in names]), strict=True))


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
def test_every_example_is_well(example: Rendered, of_examples: dict[str, list[Finding]]) -> None:
    serious = [found for found in of_examples[example.name] if not found["warning"]]
    assert serious == []


def test_the_agent_renders_every_example_for_what_weft_sends(tmp_path: Path) -> None:
    cases = []
    for example in EXAMPLES:
        folder = tmp_path / example.name
        write(example, folder)
        # Its identity mapping is named by the place where it would be installed, which is not here.
        (folder / "config.yaml").write_text("")
        schema = json.loads(example.files["user_config_schema.json"])
        account = schema["properties"].get("account", {})
        needed = {name: account.get("enum", ["proj-1"])[0] for name in schema["required"] if name not in SENT}
        cases.append((folder, {**SENT, **needed}, "ada"))
    for example, found in zip(EXAMPLES, render_all(cases), strict=True):
        assert "config" in found, (example.name, found)
        engine = found["config"]["engine"]
        options = engine["provider"].get("scheduler_options", "")
        tag = "weft:endpoint=clusters/site/endpoints/llama;slot=3;models="
        if engine["provider"]["type"] == "SlurmProvider":
            assert "#SBATCH --job-name=weft-llama-3\n" in options
            assert f"#SBATCH --comment={tag}" in options
        elif engine["provider"]["type"] == "PBSProProvider":
            assert "#PBS -N weft-llama-3\n" in options
            assert f"#PBS -v WEFT_JOB={tag}" in options
        else:
            assert options == ""
        assert engine["max_workers_per_node"] >= 2


def job_environment(config: dict[str, Any], *names: str) -> list[str]:
    """The variables that a job has behind its worker_init, which really runs."""
    script = config["engine"]["provider"]["worker_init"] + "".join(
        f'\nprintf "%s\\0" "${{{name}-unset}}"' for name in names
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env={"HOME": "/home/x"})
    return done.stdout.split("\0")[:-1]


def test_a_job_knows_what_it_is_and_how_to_launch_vllm(tmp_path: Path) -> None:
    site = ["site.environment.venv=null", "site.vllm_environment={}", "site.log_folder=~/weft logs"]
    order = Order("slurm", "llama-3.3-70b", overrides=site)
    config = user_config(placed(order, tmp_path), {**SENT, "account": "a", "walltime": "01:30:05"})
    job, walltime, command, logs, scheduler = job_environment(
        config, "WEFT_JOB", "WEFT_WALLTIME_S", "WEFT_VLLM_COMMAND", "WEFT_LOG_DIR", "WEFT_SCHEDULER"
    )
    assert job == "weft:endpoint=clusters/site/endpoints/llama;slot=3;models=meta-llama/Llama-3.3-70B-Instruct"
    assert (walltime, logs, scheduler) == ("5405", "/home/x/weft logs", "slurm")
    words = shlex.split(command)
    assert words[:3] == [str(tmp_path / "launch_vllm.sh"), "--port", "{port}"]
    assert words[words.index("--tensor-parallel") + 1] == "4"
    assert words[words.index("--") :] == [
        *("--", "--max-model-len", "16384", "--gpu-memory-utilization", "0.95", "--enable-prefix-caching")
    ]


NASTY = [
    'it\'s "quoted" $(touch hacked) `touch hacked` \\ \\n {{ 7 * 7 }} {% raw %} {# gone #}',
    "line one\nline two: {x}\n  indented",
    "${#array[@]} ünï 漢字 \u2028 \x7f \ttab",
    " leading and trailing ",
    "- : # !tag &anchor *alias | > % @",
]


@pytest.mark.parametrize("value", NASTY)
def test_what_an_administrator_writes_arrives_as_it_was_written(value: str, tmp_path: Path) -> None:
    settings = {
        "display_name": value,
        "site": {"environment": {"venv": None, "variables": {"SITE": value}}, "worker_flags": ["--flag", value]},
        "model": {"flags": ["--chat-template", value], "path": value},
    }
    folder = placed(Order("local", "opt-125m", settings=settings), tmp_path)
    site, command, flags = job_environment(user_config(folder, SENT), "SITE", "WEFT_VLLM_COMMAND", "WEFT_WORKER_FLAGS")
    assert site == value
    words = shlex.split(command)
    assert words[words.index("--model") + 1] == value
    assert words[-1] == value
    assert shlex.split(flags) == ["--flag", value]
    assert yaml.safe_load((folder / "config.yaml").read_text())["display_name"] == value
    assert [found for found in check(folder) if not found["warning"]] == []


HOSTILE = ["a'; touch hacked; 'b", "$(touch hacked)", "a\n#SBATCH --chdir=/", 'x" y: z', "a b", "", "-x", "a\n"]


def test_what_a_user_sends_is_refused_by_the_agent_unless_it_is_plain(tmp_path: Path) -> None:
    folder = placed(Order("slurm", "llama-3.3-70b"), tmp_path)
    names = ("account", "partition", "walltime", "weft_endpoint", "weft_slot", "other")
    tried = [(name, value) for name in names for value in HOSTILE]
    found = render_all([(folder, {**SENT, **REQUIRED, name: value}, "ada") for name, value in tried])
    for (name, value), one in zip(tried, found, strict=True):
        assert one.get("refused", "").startswith("ValidationError"), (name, value, one)


OUTSIDE = [{"walltime": "24:00:01"}, {"weft_slot": 64}, {"weft_slot": -1}, {"weft_slot": True}, {"account": None}]


def test_what_is_outside_the_limits_is_refused_by_the_agent(tmp_path: Path) -> None:
    folder = placed(Order("slurm", "llama-3.3-70b"), tmp_path)
    inside = [{}, {"walltime": "24:00:00"}, {"weft_slot": 63}, {"partition": "other"}]
    found = render_all([(folder, {**SENT, **REQUIRED, **change}, "ada") for change in [*OUTSIDE, *inside]])
    assert ["refused" in one for one in found] == [True] * len(OUTSIDE) + [False] * len(inside)


def test_each_local_user_may_run_what_the_template_says(tmp_path: Path) -> None:
    group = [{"users": ["ada"], "functions": ["probe", "batch"]}, {"users": ["*"], "functions": ["probe"]}]
    folder = placed(Order("local", "opt-125m", settings={"function_users": group}), tmp_path)
    probe = "12345678-1234-4234-8234-123456789ab6"
    assert user_config(folder, SENT, "ada")["allowed_functions"] == [probe, "12345678-1234-4234-8234-123456789ab4"]
    assert user_config(folder, SENT, "eve")["allowed_functions"] == [probe]


def test_the_launch_script_is_clean_to_shellcheck() -> None:
    done = subprocess.run(["shellcheck", str(HERE / "launch_vllm.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


MULTI_USER = {
    "email": "compute@example.edu",
    "identity_mapping": {"domains": ["example.edu"]},
    "site": {"address": {"interface": None, "ip": "127.0.0.1"}},
}
ORDERS = {
    "local": Order("local", "opt-125m"),
    "slurm": Order("slurm", "llama-3.3-70b", overrides=["site.address={ip: 127.0.0.1}"]),
    "nodes": Order("sophia", "llama-3.1-405b", overrides=["site.address={ip: 127.0.0.1}"]),
    "multi-user": Order("slurm", "llama-3.3-70b", settings=MULTI_USER),
    "assured": Order(
        "slurm",
        "llama-3.3-70b",
        settings={
            **MULTI_USER,
            "high_assurance": True,
            "subscription_id": "2c94f030-d346-11e9-939f-02ff96a5aa76",
            "authentication_policy": "8e6529c8-a7ce-4310-b895-244e1b33702a",
            "audit_log": "/tmp/audit.log",
        },
    ),
}


@pytest.mark.parametrize("name", ORDERS)
def test_what_is_rendered_in_place_has_nothing_wrong(name: str, tmp_path: Path) -> None:
    assert check(placed(ORDERS[name], tmp_path)) == []


CONFIG, TEMPLATE, SCHEMA = "config.yaml", "user_config_template.yaml.j2", "user_config_schema.json"
MAPPING, ENVIRONMENT = "identity_mapping.json", "user_environment.yaml"


def change(file: str, old: str, new: str) -> Callable[[Path], None]:
    def break_it(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))

    return break_it


def add(file: str, text: str) -> Callable[[Path], None]:
    def break_it(folder: Path) -> None:
        with (folder / file).open("a") as opened:
            opened.write(text)

    return break_it


def remove(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


PROBE = "- 12345678-1234-4234-8234-123456789ab6 # probe\n"
BROKEN: list[tuple[str, str, Callable[[Path], None], str, str, str]] = [
    # what is broken, of which order, how, and the finding: its file, the text of its line, and a part of its words
    (
        "unknown key",
        "local",
        add(CONFIG, "amqp_prot: 443\n"),
        CONFIG,
        "amqp_prot: 443",
        "the nearest known is 'amqp_port'",
    ),
    (
        "engine in config",
        "local",
        add(CONFIG, "engine: {type: GlobusComputeEngine}\n"),
        CONFIG,
        "engine:",
        "belongs into",
    ),
    ("old multi_user", "local", add(CONFIG, "multi_user: true\n"), CONFIG, "multi_user: true", "older versions"),
    ("bad type", "local", change(CONFIG, "period: 30", "period: often"), CONFIG, "heartbeat_period: often", "number"),
    ("bad port", "local", change(CONFIG, "443", "444"), CONFIG, "amqp_port: 444", "does not listen on 444"),
    ("bad UUID", "local", change(CONFIG, PROBE, "- zzz\n"), CONFIG, "- zzz", "allowed_functions"),
    ("no YAML", "local", add(CONFIG, "a: [\n"), CONFIG, "", "is not YAML"),
    ("no config", "local", remove(CONFIG), CONFIG, "", "cannot be read"),
    ("no functions", "local", change(CONFIG, "allowed_functions:", "admins:"), CONFIG, "", "any function may run"),
    ("a function missing", "local", change(CONFIG, PROBE, ""), CONFIG, "allowed_functions:", "probe"),
    ("no template", "local", remove(TEMPLATE), TEMPLATE, "", "cannot be read"),
    (
        "template syntax",
        "local",
        change(TEMPLATE, "{%- set weft_slot", "{%- sat weft_slot"),
        TEMPLATE,
        "{%- sat",
        "Jinja",
    ),
    (
        *("undefined variable", "slurm", change(TEMPLATE, "encrypted: true", "encrypted: {{ crypt }}")),
        *(TEMPLATE, "encrypted: {{ crypt }}", "a variable that nobody gives"),
    ),
    ("rendered YAML", "local", change(TEMPLATE, "  encrypted: true", " encrypted: true"), TEMPLATE, "", "give YAML"),
    (
        *("unknown engine key", "local", change(TEMPLATE, "max_workers_per_node", "max_worker_per_node")),
        *(TEMPLATE, "max_worker_per_node: 9", "the nearest known is 'max_workers_per_node'"),
    ),
    (
        *("unknown provider key", "slurm", change(TEMPLATE, "nodes_per_block", "node_per_block")),
        *(TEMPLATE, "node_per_block: 1", "the nearest known is 'nodes_per_block'"),
    ),
    (
        "unknown engine",
        "local",
        change(TEMPLATE, "GlobusComputeEngine", "GlobusEngine"),
        TEMPLATE,
        'type: "GlobusEngine"',
        "not a valid",
    ),
    (
        "unknown provider",
        "slurm",
        change(TEMPLATE, "SlurmProvider", "SlurpProvider"),
        TEMPLATE,
        'type: "SlurpProvider"',
        "not a valid",
    ),
    (
        "bad engine type",
        "slurm",
        change(TEMPLATE, "min_blocks: 0", 'min_blocks: "a"'),
        TEMPLATE,
        'min_blocks: "a"',
        "int",
    ),
    (
        *("heartbeats", "slurm", change(TEMPLATE, "idle_heartbeats_hard: 23070", "idle_heartbeats_hard: 100")),
        *(TEMPLATE, "idle_heartbeats_hard: 100", "jobs may last 86400 s"),
    ),
    (
        *(
            "heartbeats without walltime",
            "local",
            change(TEMPLATE, "idle_heartbeats_soft: 0", "idle_heartbeats_soft: 9"),
        ),
        *(TEMPLATE, "idle_heartbeats_hard: 0", "no walltime"),
    ),
    (
        "one slot",
        "local",
        change(TEMPLATE, "max_workers_per_node: 9", "max_workers_per_node: 1"),
        TEMPLATE,
        "max_workers_per_node: 1",
        "only slot",
    ),
    (
        "many blocks",
        "local",
        change(TEMPLATE, "max_blocks: 1", "max_blocks: 4"),
        TEMPLATE,
        "max_blocks: 4",
        "another node",
    ),
    (
        "a manager on each node",
        "nodes",
        change(TEMPLATE, "SimpleLauncher", "SrunLauncher"),
        TEMPLATE,
        "launcher:",
        "on each node",
    ),
    (
        "shell",
        "local",
        change(TEMPLATE, "export WEFT_SCHEDULER=local", "if true; then"),
        TEMPLATE,
        'worker_init: "\\',
        "no shell script",
    ),
    ("no port", "local", change(TEMPLATE, "{port}", "8000"), TEMPLATE, "export WEFT_VLLM_COMMAND", "put {port}"),
    ("no launch script", "local", remove("launch_vllm.sh"), TEMPLATE, "export WEFT_VLLM_COMMAND", "does not exist"),
    (
        "not executable",
        "local",
        lambda folder: (folder / "launch_vllm.sh").chmod(0o644),
        "launch_vllm.sh",
        "",
        "chmod +x",
    ),
    ("broken launch script", "local", add("launch_vllm.sh", "if\n"), "launch_vllm.sh", "", "no shell script"),
    ("no schema", "local", remove(SCHEMA), SCHEMA, "", "any variable passes"),
    (
        "schema JSON",
        "local",
        change(SCHEMA, '"type": "object",', '"type": "object"'),
        SCHEMA,
        '  "properties": {',
        "is not JSON",
    ),
    (
        "schema type",
        "local",
        change(SCHEMA, '"type": "integer"', '"type": "number of"'),
        SCHEMA,
        '"type": "number of"',
        "no JSON schema",
    ),
    (
        "loose schema",
        "local",
        change(SCHEMA, ": false", ": true"),
        SCHEMA,
        '"additionalProperties": true',
        "unknown variables",
    ),
    (
        "schema refuses Weft's",
        "local",
        change(SCHEMA, '"weft_slot": {', '"weft_slit": {'),
        SCHEMA,
        "weft_slot",
        "refuses what Weft sends",
    ),
    (
        "schema wants more",
        "local",
        change(SCHEMA, '"weft_slot"\n  ]', '"weft_slot", "project"\n  ]'),
        SCHEMA,
        "",
        "--set project=VALUE",
    ),
    (
        *("injection", "slurm", lambda folder: (_open_schema(folder), _unquote(folder))),
        *(TEMPLATE, "account", "reaches the job's script in 'account' as it is"),
    ),
    (
        "mapping JSON",
        "multi-user",
        change(
            MAPPING,
            "[",
            "",
        ),
        MAPPING,
        "",
        "JSON",
    ),
    (
        "mapping type",
        "multi-user",
        change(MAPPING, "expression_identity", "espresso_identity"),
        MAPPING,
        '"DATA_TYPE"',
        "DATA_TYPE",
    ),
    ("mapping pattern", "multi-user", change(MAPPING, "(.*)@", "*@"), MAPPING, '"match"', "wildcard"),
    ("loose mapping", "multi-user", change(MAPPING, "\\\\.", "."), MAPPING, '"match"', "stands for any character"),
    (
        "everybody mapped",
        "multi-user",
        change(MAPPING, "(.*)@example\\\\.edu", "(.*)"),
        MAPPING,
        '"match"',
        "everybody fits",
    ),
    (
        "no contact",
        "multi-user",
        change(CONFIG, "email: compute@example.edu\n", ""),
        CONFIG,
        "identity_mapping_config_path:",
        "without a contact",
    ),
    ("mapping missing", "multi-user", remove(MAPPING), CONFIG, "identity_mapping_config_path:", "does not exist"),
    (
        "no policy",
        "assured",
        change(CONFIG, "authentication_policy: 8e", "display_name: 8e"),
        CONFIG,
        "high_assurance: true",
        "is missing",
    ),
    (
        "no audit",
        "assured",
        change(CONFIG, "audit_log_path: /tmp/audit.log\n", ""),
        CONFIG,
        "high_assurance: true",
        "no task is logged",
    ),
    ("audit without assurance", "local", add(CONFIG, "audit_log_path: /a\n"), CONFIG, "audit_log_path: /a", "ignored"),
    (
        "unencrypted",
        "assured",
        change(TEMPLATE, "encrypted: true", "encrypted: false"),
        TEMPLATE,
        "encrypted: false",
        "encrypted",
    ),
    ("two lists", "local", add(TEMPLATE, "\nallowed_functions: []\n"), TEMPLATE, "allowed_functions: []", "is ignored"),
    ("nested environment", "local", add(ENVIRONMENT, "A: {B: c}\n"), ENVIRONMENT, "A: {B: c}", "one text"),
    (
        "admins",
        "local",
        add(CONFIG, "admins: [8e6529c8-a7ce-4310-b895-244e1b33702a]\n"),
        CONFIG,
        "admins:",
        "subscription",
    ),
    (
        "config.py",
        "local",
        lambda folder: (folder / "config.py").write_text(""),
        "config.py",
        "",
        "instead of config.yaml",
    ),
]


def _open_schema(folder: Path) -> None:
    schema = json.loads((folder / SCHEMA).read_text())
    schema["properties"]["account"] = {"type": "string"}
    (folder / SCHEMA).write_text(json.dumps(schema, indent=2))


def _unquote(folder: Path) -> None:
    change(TEMPLATE, "account: {{ account | shell_escape }}", "account: {{ account[1:-1] }}")(folder)


@pytest.fixture(scope="module")
def of_broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[Finding]]]:
    """Each broken folder, and what is found in it."""
    folders = {case[0]: placed(ORDERS[case[1]], tmp_path_factory.mktemp("broken")) for case in BROKEN}
    for name, _, break_it, *_ in BROKEN:
        break_it(folders[name])
    found = check_all(list(folders.values()))
    return {name: (folder, of_one) for (name, folder), of_one in zip(folders.items(), found, strict=True)}


def test_no_two_broken_folders_have_one_name() -> None:
    assert len({case[0] for case in BROKEN}) == len(BROKEN)


@pytest.mark.parametrize(
    ("name", "file", "line", "said"), [(case[0], *case[3:]) for case in BROKEN], ids=[case[0] for case in BROKEN]
)
def test_what_is_broken_is_found(
    name: str, file: str, line: str, said: str, of_broken: dict[str, tuple[Path, list[Finding]]]
) -> None:
    folder, found = of_broken[name]
    fitting = [
        one for one in found if one["file"] == file and said in f"{one['field']} {one['problem']}; {one['remedy']}"
    ]
    assert fitting, found
    if line:
        assert line in (folder / file).read_text().splitlines()[fitting[0]["line"] - 1], fitting[0]


def test_an_identity_that_maps_to_nobody_is_told(tmp_path: Path) -> None:
    folder = placed(ORDERS["multi-user"], tmp_path)
    assert check(folder, "--identity", "ada@example.edu") == []
    assert "maps ada@example.org to nobody" in check(folder, "--identity", "ada@example.org")[0]["problem"]
    (found,) = check(placed(ORDERS["local"], tmp_path / "local"), "--identity", "ada@example.org")
    assert "ada@example.org neither" in found["problem"]


def test_an_account_with_a_directive_of_its_own_in_quotes_is_found(tmp_path: Path) -> None:
    folder = placed(ORDERS["slurm"], tmp_path)
    _open_schema(folder)
    found = check(folder)
    assert [one["field"] for one in found] == ["account"], "quotes do not hold a directive's line together"
    assert "reaches the job's script in 'account'" in found[0]["problem"]


def test_the_command_says_file_line_field_and_remedy(tmp_path: Path) -> None:
    folder = placed(ORDERS["local"], tmp_path)
    runner = CliRunner()
    done = runner.invoke(app, ["check", str(folder), "--python", python()])
    assert (done.exit_code, done.output) == (0, f"{folder} is well\n")
    add(CONFIG, "amqp_prot: 443\n")(folder)
    line = len((folder / CONFIG).read_text().splitlines())
    done = runner.invoke(app, ["check", str(folder), "--python", python()])
    assert done.exit_code == 1
    assert done.output == f"config.yaml:{line}: amqp_prot: is not known; the nearest known is 'amqp_port'.\n"
    done = runner.invoke(app, ["check", str(folder), "--python", python(), "--json"])
    assert json.loads(done.output)[0]["line"] == line
    (folder / CONFIG).unlink()
    done = runner.invoke(app, ["check", str(folder), "--python", python()])
    assert "config.yaml: cannot be read: No such file or directory; render the endpoint anew.\n" in done.output


def test_a_walltime_is_a_variable_as_it_stands(tmp_path: Path) -> None:
    folder = placed(ORDERS["slurm"], tmp_path)
    runner = CliRunner()
    done = runner.invoke(app, ["check", str(folder), "--python", python(), "--set", "walltime=12:00:00"])
    assert (done.exit_code, done.output) == (0, f"{folder} is well\n")
    done = runner.invoke(app, ["check", str(folder), "--python", python(), "--set", "wall=12:00:00"])
    assert "'wall' was unexpected); leave out of --set what the schema does not know" in done.output


def test_a_python_without_the_agent_is_told() -> None:
    with pytest.raises(EndpointFilesError, match="it has no globus-compute-endpoint; name the Python"):
        run_check([FOLDER / "delta"], sys.executable, [])


def test_the_command_finds_the_agent_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = placed(ORDERS["local"], tmp_path)
    monkeypatch.setenv("PATH", f"{Path(python()).parent}:{os.environ['PATH']}")
    assert CliRunner().invoke(app, ["check", str(folder)]).output == f"{folder} is well\n"

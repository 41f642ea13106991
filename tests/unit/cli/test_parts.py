"""How the processes of a mesh on one machine are told what to be."""

import sys
from pathlib import Path

import yaml

from services.cli.parts import Vllm, real_vllm, service_part, simulated_vllm, to_environ, worker_part
from services.worker.command import parse


def test_overrides_become_variables_that_read_back_as_the_same() -> None:
    environ = to_environ(
        {"facade": {"port": 0, "host": "127.0.0.1"}, "registry": {"seed": {"endpoints": [{"name": "n"}]}}}
    )
    assert {name: yaml.safe_load(value) for name, value in environ.items()} == {
        "WEFT_FACADE__PORT": 0,
        "WEFT_FACADE__HOST": "127.0.0.1",
        "WEFT_REGISTRY__SEED": {"endpoints": [{"name": "n"}]},
    }


def test_a_service_is_this_very_weft_in_its_home() -> None:
    part = service_part("auth", Path("/home"), {"WEFT_AUTH__ADDRESS": "a:1"}, grace=5)
    assert part.command == (sys.executable, "-m", "services.cli", "serve", "auth", "--grace", "5")
    assert part.environ == {"WEFT_HOME": "/home", "WEFT_AUTH__ADDRESS": "a:1"}
    assert part.log_file == Path("/home/log/auth.log")


def worker_settings(vllm: Vllm) -> tuple[str, tuple[str, ...]]:
    part = worker_part(
        "worker-1", Path("/home"), vllm, router="127.0.0.1:7000", endpoint="clusters/a/endpoints/b", grace=5
    )
    assert part.command[:4] == (sys.executable, "-m", "services.cli", "worker")
    config, _ = parse(part.command[4:])
    assert (config.routers, config.endpoint) == (("127.0.0.1:7000",), "clusters/a/endpoints/b")
    assert config.key_file == Path("/home/worker.key")
    return config.vllm_url, config.vllm_command


def test_a_worker_of_a_url_launches_nothing() -> None:
    assert worker_settings(Vllm(url="unix:/run/vllm.sock")) == ("unix:/run/vllm.sock", ())


def test_a_worker_launches_its_simulator_on_a_port_of_its_choice() -> None:
    url, command = worker_settings(simulated_vllm("--ttft-s", "0.5"))
    port = url.rpartition(":")[2]
    assert command == (sys.executable, "-m", "services.sim", "--port", port, "--ttft-s", "0.5")


def test_a_worker_launches_a_real_vllm_on_loopback() -> None:
    url, command = worker_settings(real_vllm("/opt/my vllm", "some/model"))
    port = url.rpartition(":")[2]
    assert command == ("/opt/my vllm", "serve", "some/model", "--host", "127.0.0.1", "--port", port)
    _, command = worker_settings(real_vllm("vllm", "m", traced=True))
    assert command[-2:] == ("--otlp-traces-endpoint", "{otlp}")

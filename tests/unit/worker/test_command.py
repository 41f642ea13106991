"""The command line of `weft worker`."""

from __future__ import annotations

import logging

import pytest

from services.core.deadlines import Bounds
from services.core.tracing import TraceContext, current
from services.rpc.remote import Way
from services.worker.command import _Formatter, main, parse

VLLM = ("--vllm-url", "http://127.0.0.1:8000")


def test_defaults(monkeypatch, tmp_path):
    monkeypatch.setenv("WEFT_HOME", str(tmp_path))
    config, level = parse(VLLM)
    assert (config.routers, config.vllm_url, config.vllm_command) == (("127.0.0.1:7000",), VLLM[1], ())
    assert (config.key_file, config.bounds, level) == (tmp_path / "worker.key", Bounds().inner(), "info")


def test_a_command_with_a_port_is_attached_there():
    config, _ = parse(["--vllm-command", "vllm serve 'my model' --port {port}"])
    port = config.vllm_url.removeprefix("http://127.0.0.1:")
    assert config.vllm_command == ("vllm", "serve", "my model", "--port", port)


def test_a_command_with_a_url_of_its_own_keeps_its_braces():
    config, _ = parse([*VLLM, "--vllm-command", "vllm serve '{port}'"])
    assert config.vllm_command == ("vllm", "serve", "{port}")


@pytest.mark.parametrize(
    ("flags", "address"),
    [
        ((), ""),
        (("--vllm-command", "vllm serve m --otlp-traces-endpoint {otlp}"), "127.0.0.1:0"),
        (("--vllm-command", "vllm serve m --otlp-traces-endpoint {otlp}", "--otlp-address", "[::1]:1"), "[::1]:1"),
        (("--otlp-address", "node7:4317"), "node7:4317"),
    ],
)
def test_where_vllms_spans_are_taken(flags, address):
    config, _ = parse([*VLLM, *flags])
    assert config.otlp_address == address


def test_a_line_that_is_said_in_the_course_of_a_call_bears_its_traces_ids():
    record = logging.LogRecord("weft", logging.INFO, "", 0, "vLLM %s", ("broke off",), None)
    assert _Formatter("%(message)s").format(record) == "vLLM broke off"
    token = current.set(TraceContext.of("ab" * 16, "cd" * 8, sampled=False))
    try:
        said = _Formatter("%(message)s").format(record)
    finally:
        current.reset(token)
    assert said == f"vLLM broke off trace_id={'ab' * 16} span_id={'cd' * 8}"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "give --vllm-url, --vllm-command, or both"),
        (("--vllm-command", "vllm serve m"), "--vllm-command must contain {port}"),
        (("--vllm-command", "vllm 'serve"), "--vllm-command cannot be split into words: No closing quotation"),
        (("--vllm-url", "127.0.0.1:8000"), "--vllm-url must be http://HOST:PORT"),
        (("--vllm-url", "http://"), "--vllm-url must be http://HOST:PORT"),
        (("--vllm-url", "http://host:port"), "--vllm-url must be http://HOST:PORT"),
        (("--vllm-url", "unix:"), "--vllm-url must be http://HOST:PORT"),
        ((*VLLM, "--max-calls", "0"), "argument --max-calls: '0' is not a number above zero"),
        ((*VLLM, "--max-calls", "1.5"), "argument --max-calls: '1.5' is not a number above zero"),
        ((*VLLM, "--grace", "nan"), "argument --grace: 'nan' is not a number above zero"),
        ((*VLLM, "--grace", "inf"), "argument --grace: 'inf' is not a number above zero"),
        ((*VLLM, "--log-level", "loud"), "argument --log-level"),
        ((*VLLM, "--key-file", "k", "--enrolment-token-file", "t"), "not allowed with argument --key-file"),
        ((*VLLM, "--vllm-restarts", "0"), "argument --vllm-restarts: '0' is not a number above zero"),
        ((*VLLM, "--otlp-address", "4317"), "argument --otlp-address: '4317' is not HOST:PORT"),
        ((*VLLM, "--otlp-address", "host:70000"), "argument --otlp-address: 'host:70000' is not HOST:PORT"),
        ((*VLLM, "--job-end", "soon"), "argument --job-end: 'soon' is not a number above zero"),
    ],
)
def test_a_wrong_argument_is_one_clear_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_a_job_and_what_ends_with_it():
    end = "4102444800"  # beyond what other flags take for a number of seconds
    config, _ = parse([*VLLM, "--job-id", "17[3]", "--job-end", end, "--grace", "20", "--attach-timeout", "60"])
    assert (config.job_id, config.job_end, config.drain_before, config.attach_timeout) == ("17[3]", 4102444800, 40, 60)
    assert parse([*VLLM, "--drain-before", "300"])[0].drain_before == 300
    assert parse(VLLM)[0].job_end is None


def test_the_way_to_a_router(tmp_path):
    flags = ("--router", "https://router.example", "--router-ca", str(tmp_path), "--proxy", "none")
    config, _ = parse([*VLLM, *flags, "--enrolment-token-file", str(tmp_path / "token"), "--vllm-restarts", "3"])
    assert (config.routers, config.way) == (("https://router.example",), Way(tmp_path, "none"))
    assert (config.enrolment_token_file, config.vllm_restarts) == (tmp_path / "token", 3)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--router", "http://r:1"), "A router is given as HOST:PORT, or as https://HOST[:PORT] for TLS"),
        (
            ("--proxy", "https://me:secret@p:1"),
            "'--proxy' must look like http://[USER:PASSWORD@]HOST:PORT, or be 'none'",
        ),
        (("--router-ca", "/no/such/file"), "The authorities' file /no/such/file cannot be read: No such file"),
    ],
)
def test_a_way_that_cannot_be_gone_is_told(flags, sentence, capsys):
    assert main([*VLLM, *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"weft worker: {sentence}")
    assert "secret" not in error


def test_a_wrong_endpoint_is_told(capsys):
    assert main([*VLLM, "--endpoint", "nonsense"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("weft worker: '--endpoint' must look like 'clusters/{cluster}/endpoints/{endpoint}'")
    assert "Traceback" not in error

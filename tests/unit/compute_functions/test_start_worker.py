"""The parts of start-worker that need no worker; how it runs one is in tests/integration/test_compute_functions.py."""

import calendar
import datetime
import os
import socket
import ssl
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from compute_functions import start_worker as module
from compute_functions.start_worker import reach, redacted, start_worker
from tests.unit.compute_functions.listener import listening
from tests.unit.compute_functions.test_queue_status import command

SITE = ("WEFT_VLLM_COMMAND", "WEFT_WORKER_FLAGS", "WEFT_WORKER_PROGRAM", "WEFT_WALLTIME_S", "WEFT_LOG_DIR")
SCHEDULERS = ("SLURM_JOB_ID", "SLURM_JOB_END_TIME", "PBS_JOBID", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY")


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node on which nothing is set; its commands go into the folder."""
    for name in (*SITE, *SCHEDULERS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WEFT_RUN_DIR", str(tmp_path / "run"))
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def told(**fields: Any) -> tuple[str, str]:
    request = {"endpoint": "clusters/a/endpoints/b", "start": "starts/s", "slot": 0, "mode": "task", **fields}
    answer = start_worker(request)
    return answer["outcome"], answer["detail"]


# Settings


def test_each_missing_setting_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, detail = told()
    assert outcome == "site_error"
    assert "WEFT_VLLM_COMMAND is not set: export it in the endpoint's worker_init" in detail
    monkeypatch.setenv("WEFT_VLLM_COMMAND", "vllm serve m")
    assert "must contain {port}" in told()[1]
    monkeypatch.setenv("WEFT_VLLM_COMMAND", "vllm 'serve {port}")
    assert "WEFT_VLLM_COMMAND cannot be split into words" in told()[1]
    monkeypatch.setenv("WEFT_VLLM_COMMAND", "vllm serve m --port {port}")
    monkeypatch.setenv("WEFT_WALLTIME_S", "six hours")
    assert "WEFT_WALLTIME_S must be a number of seconds" in told()[1]
    monkeypatch.delenv("WEFT_WALLTIME_S")
    monkeypatch.setenv("WEFT_WORKER_PROGRAM", "no-such-weft")
    detail = told(mode="session")[1]
    assert "'no-such-weft' is not on PATH: install weft" in detail
    assert "'enrolment_token' and 'routers'" in detail


@pytest.mark.parametrize(
    "fields",
    [{"endpoint": "../x"}, {"endpoint": "clusters/a/endpoints/../b"}, {"slot": -1}, {"slot": "x"}, {"mode": "other"}],
)
def test_requests_that_are_none(fields: dict[str, Any], tmp_path: Path) -> None:
    assert told(**fields)[0] == "site_error"
    assert not (tmp_path / "run").exists()


@given(
    st.dictionaries(
        st.sampled_from(["endpoint", "start", "slot", "routers", "mode", "api_port", "walltime_s", "grace_s"]),
        st.none() | st.integers() | st.text() | st.lists(st.text(), max_size=2),
    )
)
def test_no_request_makes_it_fail(request: dict[str, Any]) -> None:
    assert start_worker(request)["outcome"] == "site_error"


@pytest.mark.parametrize("traceparent", ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", ""])
def test_the_worker_hears_which_trace_its_start_belongs_to(
    traceparent: str, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(site, "weft", f'echo "${{TRACEPARENT-none}} $*" > {tmp_path / "seen"}')
    monkeypatch.delenv("TRACEPARENT", raising=False)
    monkeypatch.setenv("WEFT_VLLM_COMMAND", "vllm serve m --port {port}")
    with socket.create_server(("127.0.0.1", 0)) as router:
        where = f"127.0.0.1:{router.getsockname()[1]}"
        given = {"mode": "session", "enrolment_token": "t", "routers": [where], "traceparent": traceparent}
        assert told(**given) == ("stopped", "The worker has drained.")
    assert (tmp_path / "seen").read_text().startswith(f"{traceparent or 'none'} worker --endpoint ")


def test_a_folder_that_somebody_else_prepared_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "mine")
    with pytest.raises(module.Ended, match="set WEFT_RUN_DIR"):
        module.private_folder(tmp_path / "run" / "slot")
    (tmp_path / "open").mkdir(mode=0o777)
    module.private_folder(tmp_path / "open" / "slot")
    assert (tmp_path / "open").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("command_line", "left"),
    [
        ("vllm serve m --otlp-traces-endpoint {otlp} --port 1", "vllm serve m --port 1"),
        ("vllm serve m --otlp-traces-endpoint={otlp}", "vllm serve m"),
        ("vllm serve m --port {port}", "vllm serve m --port {port}"),
        ("{otlp} m {otlp}", "{otlp} m {otlp}"),  # no flag, and nobody knows what is meant
        ("", ""),
    ],
)
def test_a_vllm_without_a_worker_is_not_told_where_to_send_spans(command_line: str, left: str) -> None:
    assert module.untraced(command_line.split()) == left.split()


# The job


def test_the_end_of_a_slurm_job(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    command(site, "squeue", 'echo "$TZ $*" > "$0.called"; echo 2026-11-21T11:27:32')
    job = module.job_of_this_process(0.0, 60.0)
    assert (job["id"], job["host"]) == ("7", socket.gethostname())
    assert job["end_time"] == calendar.timegm((2026, 11, 21, 11, 27, 32))
    assert (site / "squeue.called").read_text() == "UTC --noheader --jobs=7 --format=%e\n"
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1795260452")
    assert module.job_of_this_process(0.0, None)["end_time"] == 1795260452


def test_the_end_of_a_slurm_job_by_scontrol_or_not_at_all(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    command(site, "squeue", "exit 1")
    command(site, "scontrol", "echo '   StartTime=2026-11-21T10:27:32 EndTime=2026-11-21T11:27:32 Deadline=N/A'")
    assert module.job_of_this_process(0.0, None)["end_time"] == calendar.timegm((2026, 11, 21, 11, 27, 32))
    command(site, "scontrol", "echo '   StartTime=2026-11-21T10:27:32 EndTime=Unknown'")
    assert module.job_of_this_process(0.0, None)["end_time"] is None
    assert module.job_of_this_process(100.0, 60.0)["end_time"] == 160.0


def test_the_end_of_a_pbs_job(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PBS_JOBID", "101.sophia")
    text = "Job Id: 101.sophia\n    stime = Sat Nov 21 09:43:07 2026\n    Resource_List.walltime = 24:00:00\n"
    command(site, "qstat", f"cat <<'X'\n{text}X")
    assert module.job_of_this_process(0.0, None)["end_time"] == calendar.timegm((2026, 11, 22, 9, 43, 7))
    command(site, "qstat", "exit 153")
    assert module.job_of_this_process(10.0, 5.0)["end_time"] == 15.0


# Routers


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for localhost with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = tmp_path / "certificate.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + secret)
    return file


@pytest.fixture
def secure(certificate: Path) -> Any:
    """The port of a TLS server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                try:
                    context.wrap_socket(connection, server_side=True).recv(1)
                except OSError:
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def test_routers_that_are_there_and_that_are_not() -> None:
    with listening(b"") as it:
        here = f"127.0.0.1:{it.port}"
        found = reach([here, "127.0.0.1:9", "no-such-host.invalid:7000", "127.0.0.1:port"], None, None)
    assert found[here] == (True, "reached.")
    assert found["127.0.0.1:9"] == (False, "Connection refused.")
    assert [ok for ok, _ in found.values()] == [True, False, False, False]
    assert all(detail for _, detail in found.values())


def test_a_router_behind_tls_is_reached_with_the_sites_ca_alone(secure: int, certificate: Path) -> None:
    address = f"https://localhost:{secure}"
    assert reach([address], "none", str(certificate)) == {address: (True, "reached.")}
    ok, detail = reach([address], "none", None)[address]
    assert not ok
    assert "certificate" in detail.lower()


def test_the_systems_authorities_are_found_where_pythons_own_are_not(
    secure: int, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")
    monkeypatch.setattr(module, "BUNDLES", ("/nowhere", str(certificate)))
    address = f"https://localhost:{secure}"
    assert reach([address], "none", None) == {address: (True, "reached.")}


def test_a_router_behind_the_sites_proxy(secure: int, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def proxy(client: socket.socket, request: bytes) -> None:
        with socket.create_connection(("127.0.0.1", secure)) as server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join(5)

    address = f"https://localhost:{secure}"
    with listening(proxy) as it:
        monkeypatch.setenv("https_proxy", f"http://user:pass@127.0.0.1:{it.port}")
        monkeypatch.setenv("no_proxy", "")
        assert reach([address], None, str(certificate)) == {address: (True, f"reached through 127.0.0.1:{it.port}.")}
        [asked] = it.requests
        assert asked.startswith(f"CONNECT localhost:{secure} HTTP/1.1\r\n".encode())
        assert b"Proxy-Authorization: Basic dXNlcjpwYXNz\r\n" in asked
        monkeypatch.setenv("no_proxy", "localhost")
        assert reach([address], None, str(certificate))[address][1] == "reached."
        monkeypatch.setenv("no_proxy", "")
        assert reach([address], "none", str(certificate))[address][1] == "reached."
        assert len(it.requests) == 1
    with listening(b"HTTP/1.1 403 Forbidden\r\n\r\n") as it:
        ok, detail = reach([address], f"http://127.0.0.1:{it.port}", str(certificate))[address]
        assert not ok
        assert "403 Forbidden" in detail


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while chunk := source.recv(65536):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


# Logs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("token weft-secret used", "token [redacted] used"),
        ("--api-key abcdef123 --port 1", "--api-key [redacted] --port 1"),
        ("Authorization: Bearer abcdef.ghi", "Authorization: Bearer [redacted]"),
        ("Proxy-Authorization: Basic dXNlcjpwYXNz", "Proxy-Authorization: Basic [redacted]"),
        (
            "non-default args: {'api_key': ['abcdef123'], 'port': 1}",
            "non-default args: {'api_key': ['[redacted]'], 'port': 1}",
        ),
        ("['serve', '--api-key', 'abcdef123', 'm']", "['serve', '--api-key', '[redacted]', 'm']"),
        ("HF_TOKEN=hf_abcdefgh12", "HF_TOKEN=[redacted]"),
        ("proxy http://user:pass@proxy:3128", "proxy http://[redacted]@proxy:3128"),
        ("generation_tokens: 123456", "generation_tokens: 123456"),
        ("Avg generation throughput: 12.3 tokens/s", "Avg generation throughput: 12.3 tokens/s"),
    ],
)
def test_credentials_do_not_leave_the_node_in_a_log(text: str, expected: str) -> None:
    assert redacted(text, ["weft-secret"]) == expected


def test_a_log_is_the_accounts_own_and_no_link_of_somebody_else(tmp_path: Path) -> None:
    log, precious = tmp_path / "logs" / "log", tmp_path / "precious"
    module.begin_log(log)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    log.write_text("before")
    module.begin_log(log)
    assert (log.read_text(), (tmp_path / "logs" / "log.1").read_text()) == ("", "before")
    precious.write_text("kept")
    log.unlink()
    log.symlink_to(precious)
    module.begin_log(log)
    log.write_text("new")
    assert precious.read_text() == "kept"


def test_the_tail_of_a_log_is_bounded(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"".join(b"%d " % number + b"x" * 2000 + b"\xff\n" for number in range(5000)))
    lines = module.tail(log)
    assert len(lines) <= module.TAIL_LINES
    assert lines[-1].startswith("4999 x")
    assert max(map(len, lines)) <= module.LINE_LENGTH
    assert module.tail(tmp_path / "none") == []


# The keeper


def test_the_keeper_ends_with_the_code_of_what_it_holds(tmp_path: Path) -> None:
    read, write = os.pipe()
    for script, code in (("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)):
        keeper = module.Keeper(["sh", "-c", script], tmp_path / "log", 5.0, write)
        assert keeper.wait(20.0) == code
    os.close(read)
    os.close(write)


def test_the_keeper_gives_time_to_end_in_good_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "trap 'echo drained; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    with log.open("ab") as lock:
        keeper = module.Keeper(["sh", "-c", script], log, 10.0, lock.fileno())
    until = time.monotonic() + 20
    while "up" not in log.read_text() and time.monotonic() < until:
        subprocess.run(["sleep", "0.05"], check=True)
    keeper.stop()
    assert keeper.wait(0) == 0
    assert log.read_text().splitlines()[-1] == "drained"

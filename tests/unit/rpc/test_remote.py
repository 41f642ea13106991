"""The way to a router outside the mesh: how it is given, which proxy is on it, and why it fails."""

from pathlib import Path

import pytest

from services.core.errors import Reason, ServiceError
from services.rpc.remote import NO_PROXY, Way, check_router, explain
from tests.testing.certificates import Authority


@pytest.mark.parametrize(
    "router", ["127.0.0.1:7000", "router:7000", "[::1]:7000", "https://router.example", "https://router.example:8443/"]
)
def test_how_a_router_is_given(router: str) -> None:
    check_router(router)


@pytest.mark.parametrize(
    "router",
    [
        "",
        "router",
        "router:port",
        "router:0",
        "http://router:7000",
        "https://",
        "https://router:0",
        "https://router:99999",
        "https://router/path",
        "https://me@router",
        "https://router?query",
    ],
)
def test_what_is_no_router(router: str) -> None:
    with pytest.raises(ServiceError, match="HOST:PORT") as caught:
        check_router(router)
    assert (caught.value.reason, caught.value.param) == (Reason.ARGUMENT_INVALID, "--router")


class Dialled:
    """Keeps with what options gRPC would be asked for a channel."""

    def __init__(self) -> None:
        self.target = ""
        self.secure = False
        self.options: dict[str, int | str] = {}

    def secure_channel(self, target: str, credentials: object, options: tuple[tuple[str, int | str], ...]) -> object:
        self.target, self.secure, self.options = target, True, dict(options)
        return object()


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> Dialled:
    """No proxy in the environment but a test's own."""
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    dialled = Dialled()
    monkeypatch.setattr("services.rpc.remote.grpc.aio.secure_channel", dialled.secure_channel)
    return dialled


@pytest.mark.parametrize(
    ("router", "target"),
    [
        ("https://router.example", "router.example:443"),
        ("https://router.example:8443", "router.example:8443"),
        ("https://[::1]", "[::1]:443"),
    ],
)
def test_by_tls_without_a_proxy(dialled: Dialled, router: str, target: str) -> None:
    Way().dial(router)
    assert dialled.target == target
    assert dialled.options["grpc.enable_http_proxy"] == 0
    assert "grpc.http_proxy" not in dialled.options


@pytest.mark.parametrize(
    ("environ", "told", "proxy"),
    [
        ({"https_proxy": "http://proxy:3128"}, "", "http://proxy:3128"),
        ({"HTTPS_PROXY": "proxy:3128"}, "", "http://proxy:3128"),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "other,.example"}, "", None),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "other"}, "", "http://proxy:3128"),
        ({"https_proxy": "http://proxy:3128"}, NO_PROXY, None),
        ({"http_proxy": "http://proxy:3128"}, "", None),
        ({"https_proxy": "http://proxy:3128", "no_proxy": "*"}, "http://mine:1", "http://mine:1"),
    ],
)
def test_which_proxy_is_on_the_way(
    dialled: Dialled, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], told: str, proxy: str | None
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("no_grpc_proxy", "unset again after the test")
    Way(proxy=told).dial("https://router.example")
    assert dialled.options.get("grpc.http_proxy") == proxy
    assert dialled.options["grpc.enable_http_proxy"] == (proxy is not None)


@pytest.mark.parametrize("proxy", ["proxy:3128", "https://proxy:3128", "http://", "socks5://proxy", "http://proxy:x"])
def test_a_proxy_that_cannot_be_used(proxy: str) -> None:
    with pytest.raises(ServiceError, match="http://") as caught:
        Way(proxy=proxy).check()
    assert (caught.value.reason, caught.value.param) == (Reason.ARGUMENT_INVALID, "--proxy")


def test_a_proxys_password_is_not_told() -> None:
    with pytest.raises(ServiceError) as caught:
        Way(proxy="https://me:secret@proxy").check()
    assert "secret" not in str(caught.value)


def test_an_authority_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="cannot be read: No such file"):
        Way(tmp_path / "absent").check()
    for text in ("nonsense", "", "\u00e9"):
        (tmp_path / "nonsense").write_text(text)
        with pytest.raises(ServiceError, match="holds no certificates in PEM"):
            Way(tmp_path / "nonsense").check()


def test_names_beside_the_certificates_may_be_in_any_language(tmp_path: Path) -> None:
    """As in the list of Mozilla's authorities that curl comes with."""
    (tmp_path / "bundle").write_text(f"NetLock Arany Főtanúsítvány\n=====\n{Authority(tmp_path).file.read_text()}")
    Way(tmp_path / "bundle").check()


@pytest.mark.parametrize(
    ("details", "sentence"),
    [
        ("... CERTIFICATE_VERIFY_FAILED: certificate has expired: OK", "has expired; its administrator must renew it"),
        ("... CERTIFICATE_VERIFY_FAILED: self signed certificate", "is not trusted here"),
        ("... Hostname Verification Check failed.", "is for another name"),
        ("... SSL_ERROR_SSL: error:100000f7:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER", "does not speak TLS"),
        ("... HTTP proxy returned response code 407", "wants a name and a password"),
        ("... HTTP proxy returned response code 503", "does not let us reach"),
        ("... Domain name not found", "is not known here"),
        ("... Connection refused", "Nothing listens at https://r"),
        ("something new", "The router at https://r cannot be reached (something new)."),
        ("", "The router at https://r cannot be reached."),
    ],
)
def test_why_it_fails(details: str, sentence: str) -> None:
    error = explain("https://r", details)
    assert error.reason is Reason.ROUTER_UNAVAILABLE
    assert sentence in error.message

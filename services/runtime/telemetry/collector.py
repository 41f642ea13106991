"""Spans to a collector, by the exporters of OpenTelemetry's SDK; what they send is encoded by `encoding`."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import grpc
import requests
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from requests.utils import get_environ_proxies

from services.core.errors import Reason, ServiceError
from services.core.tracing import Span
from services.runtime.telemetry.batcher import ExportError
from services.runtime.telemetry.config import TracingConfig
from services.runtime.telemetry.encoding import encode

TIMEOUT: Final = 5.0
"""Seconds that an export may take, with all its retries. The SDK's own, without a limit, go on for a minute."""
_LONGEST_REASON: Final = 300
# Any, because the SDK declares exactly one option, a text.
_CHANNEL: Final[Any] = (("grpc.max_reconnect_backoff_ms", 5000), ("grpc.use_local_subchannel_pool", 1))
_RETRYING = re.compile(r"^Transient error |,? retrying in [0-9.]+s")
_HEADER = re.compile(r"([A-Za-z0-9_.-]+)\s*:\s*([\x20-\x7e]*)")


class Collector:
    """The collector of the section `tracing`. Raises ARGUMENT_INVALID for settings that cannot be."""

    def __init__(self, config: TracingConfig, home: Path) -> None:
        self._endpoint = config.endpoint
        self._words = _listen_to_the_sdk()
        url = urlsplit(config.endpoint)
        headers = _headers(home / config.headers_file) if config.headers_file else {}
        ca = _ca(home / config.ca_file) if config.ca_file else None
        with _without_variables():
            self._exporter = _by_grpc(url, headers, ca) if config.protocol == "grpc" else _by_http(url, headers, ca)

    def export(self, spans: Sequence[Span]) -> None:
        """See `Exporter`."""
        self._words.of_another = True
        ours: Any = spans  # the SDK declares its own
        if self._exporter.export(ours) is SpanExportResult.SUCCESS:
            return
        why = self._words.first or "it does not say why"
        raise ExportError(
            f"the collector {self._endpoint} does not take them: {why[:_LONGEST_REASON]}",
            "see that it runs; 'tracing.endpoint', 'protocol', 'headers_file' and 'ca_file' must be what it asks for",
        )

    def close(self) -> None:
        """See `Exporter`."""
        self._exporter.shutdown()


class _ByGrpc(GrpcExporter):
    """The SDK's, for spans of ours."""

    def _translate_data(self, data: Any) -> ExportTraceServiceRequest:
        return encode(data)


class _ByHttp(HttpExporter):
    """Likewise. The SDK's own encodes in the method that sends."""

    def export(self, spans: Any) -> SpanExportResult:
        """See `SpanExporter`."""
        sent = self._client.export(encode(spans).SerializeToString())
        return SpanExportResult.SUCCESS if sent.success else SpanExportResult.FAILURE


def _by_grpc(url: SplitResult, headers: dict[str, str], ca: Path | None) -> SpanExporter:
    secure = url.scheme == "https"
    return _ByGrpc(
        endpoint=url.geturl(),
        insecure=not secure,
        credentials=grpc.ssl_channel_credentials(ca.read_bytes() if ca else None) if secure else None,
        headers=tuple(headers.items()),
        timeout=TIMEOUT,
        compression=grpc.Compression.NoCompression,
        channel_options=_CHANNEL,
    )


def _by_http(url: SplitResult, headers: dict[str, str], ca: Path | None) -> SpanExporter:
    endpoint = (url if url.path.strip("/") else url._replace(path="/v1/traces")).geturl()
    session = requests.Session()
    # Else ~/.netrc takes the place of a header of ours, and REQUESTS_CA_BUNDLE that of `ca_file`.
    session.trust_env = False
    session.proxies = get_environ_proxies(endpoint)
    return _ByHttp(
        endpoint=endpoint,
        certificate_file=str(ca) if ca else None,
        headers=headers,
        timeout=TIMEOUT,
        compression=Compression.NoCompression,
        session=session,
    )


def _headers(file: Path) -> dict[str, str]:
    """The headers of a file. What is wrong is told by its line's number: the line may be a secret."""
    headers: dict[str, str] = {}
    for number, line in enumerate(_read(file, "headers_file").decode("latin-1").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _HEADER.fullmatch(line.strip())
        if match is None or match[1].lower().endswith("-bin"):
            raise _wrong("headers_file", f"has in line {number} of {file} no header; write 'name: value'")
        headers[match[1].lower()] = match[2].strip()
    return headers


def _ca(file: Path) -> Path:
    if b"-----BEGIN CERTIFICATE-----" not in _read(file, "ca_file"):
        raise _wrong("ca_file", f"{file} holds no certificate; give the authorities in PEM")
    return file


def _read(file: Path, key: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _wrong(key, f"{file} cannot be read: {error.strerror}; correct the path or its permissions") from None


def _wrong(key: str, why: str) -> ServiceError:
    return ServiceError(Reason.ARGUMENT_INVALID, f"'tracing.{key}' {why}.", param=f"tracing.{key}")


@contextmanager
def _without_variables() -> Iterator[None]:
    """Hides OTEL_*: the SDK's exporters read them when they are made, and what weft.yaml says would be half of what
    holds: an API key for another collector would be sent to this one.
    """
    hidden = {name: os.environ.pop(name) for name in tuple(os.environ) if name.startswith("OTEL_")}
    try:
        yield
    finally:
        os.environ.update(hidden)


class _Words(logging.Handler):
    """The SDK's first words of an export, which tell most. It logs what went wrong, at every attempt, and returns only
    that it did. What it has said just before, it does not say again: then those words still hold.
    """

    first = ""
    of_another = True
    """Whether they are an earlier export's."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        if self.of_another and record.levelno >= logging.WARNING:
            self.first = _RETRYING.sub("", " ".join(record.getMessage().split()))
            self.of_another = False


def _listen_to_the_sdk() -> _Words:
    words = _Words()
    logger = logging.getLogger("opentelemetry")
    logger.handlers = [words]
    logger.propagate = False
    return words

"""The access log: a line of JSON for each request, with nothing in it that is a secret or was said."""

from __future__ import annotations

from typing import Final

from services.edge.edge import Edge
from services.edge.plain import Plain, extension

FIELDS: Final = {
    "time": "%START_TIME%",
    "front": "%FILTER_CHAIN_NAME%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "spiffe_id": "%DOWNSTREAM_PEER_URI_SAN%",
    "principal": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:principal)%",
    "protocol": "%PROTOCOL%",
    "method": "%REQ(:METHOD)%",
    # Without the query: whoever puts a key there must not find it here.
    "path": "%PATH(NQ:PATH)%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "duration_ms": "%DURATION%",
    "first_byte_ms": "%RESPONSE_DURATION%",
    "received_bytes": "%BYTES_RECEIVED%",
    "sent_bytes": "%BYTES_SENT%",
    "upstream": "%UPSTREAM_HOST%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "trace_id": "%TRACE_ID%",
}


def access_log(edge: Edge) -> list[Plain]:
    """None where no path is configured."""
    path = edge.config.access_log
    if not path:
        return []
    return [
        extension(
            "access_loggers.file",
            "extensions.access_loggers.file.v3.FileAccessLog",
            path="/dev/stdout" if path == "-" else str(edge.home / path),
            log_format={"json_format": FIELDS},
        )
    ]

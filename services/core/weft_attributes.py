"""Names of the attributes of spans that are Weft's own, where OpenTelemetry's conventions have none, and of the few
general ones that it uses. `docs/observability.md` tells what each means.
"""

from __future__ import annotations

from typing import Final

# Weft's own

REQUEST_ID: Final = "weft.request_id"
PRINCIPAL: Final = "weft.principal"
"""The principal's name."""
ROUTE: Final = "weft.route"
CLUSTER: Final = "weft.cluster"
ENDPOINT: Final = "weft.endpoint"
"""`clusters/x/endpoints/y`."""
INSTANCE: Final = "weft.instance"
"""Which of an endpoint's workers."""
BACKEND: Final = "weft.backend"
"""What carries an attempt: `session`, `http` or `globus_task`."""
ATTEMPT: Final = "weft.attempt"
"""Which attempt of its call, from 1."""
ATTEMPTS: Final = "weft.attempts"
OUTCOME: Final = "weft.outcome"
"""`ok`, `cancelled`, or the reason of the error in lower case."""
WAIT_REASON: Final = "weft.wait.reason"
"""Why a call waits for a server: `at capacity`, `starting`, `no worker`."""
START: Final = "weft.start"
"""The id of a worker's start."""
TASK: Final = "weft.globus_task"
"""The id of a Globus Compute task."""
JOB: Final = "weft.job"
"""The scheduler's id of a job."""
SLOT: Final = "weft.slot"
"""The number of a worker at its endpoint, from 0."""
USAGE_ESTIMATED: Final = "weft.usage.estimated"
"""Nobody has counted the tokens of the call."""
STATE: Final = "weft.state"
CANDIDATES: Final = "weft.candidates"
"""How many servers may take a call."""

# Of OpenTelemetry's general conventions

ERROR_TYPE: Final = "error.type"
HOST: Final = "host.name"
HTTP_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_STATUS: Final = "http.response.status_code"
RPC_SYSTEM: Final = "rpc.system"
RPC_SERVICE: Final = "rpc.service"
RPC_METHOD: Final = "rpc.method"
RPC_STATUS: Final = "rpc.grpc.status_code"

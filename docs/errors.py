"""Writes `docs/errors.md` from the catalogue: `python docs/errors.py`."""

from pathlib import Path

from services.core.errors import CATALOGUE

_INTRODUCTION = """\
# Errors

The errors that Weft itself gives. What vLLM answers, its errors included, reaches the client as vLLM wrote it and is
not listed here; only to typed calls over gRPC its refusals are `REQUEST_REFUSED`, in vLLM's words and with a status by
its own (`NOT_FOUND` for 404, `RESOURCE_EXHAUSTED` for 429), which `http_status` in the `ErrorInfo` tells. This page is
written by `python docs/errors.py` from `services/core/errors.py`.

Over HTTP an error is `{"error": {"message", "type", "param", "code"}}` with the status below; over gRPC it is the
status below with a `google.rpc.ErrorInfo` that holds the reason, in the domain `weft`. A reason marked *elsewhere* is
one that another worker may answer, so the router tries there first, as long as no byte of the answer has been sent.

| Reason | HTTP | gRPC | `type` | `code` | Elsewhere | Example |
|---|---|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    rows = [
        f"| {reason.name} | {kind.http} | {kind.grpc.name} | `{kind.type}` | {f'`{kind.code}`' if kind.code else ''} "
        f"| {'yes' if kind.elsewhere else ''} | {kind.example} |\n"
        for reason, kind in CATALOGUE.items()
    ]
    return _INTRODUCTION + "".join(rows)


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")

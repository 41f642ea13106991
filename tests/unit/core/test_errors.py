"""The catalogue of errors is complete, and says the same everywhere."""

import runpy
from pathlib import Path

import grpc
import pytest
from weft.errors.v1 import errors_pb2

from services.core.errors import CATALOGUE, ErrorKind, GrpcCode, Reason, ServiceError

DOCS = Path(__file__).parents[3] / "docs"


def test_reasons_are_those_of_the_proto_by_name_and_number() -> None:
    proto = {name.removeprefix("REASON_"): number for name, number in errors_pb2.Reason.items() if number}
    assert {reason.name: reason.value for reason in Reason} == proto


def test_every_reason_is_in_the_catalogue() -> None:
    assert set(CATALOGUE) == set(Reason)


def test_codes_are_those_of_grpc_by_name_and_number() -> None:
    assert all(grpc.StatusCode[code.name].value[0] == code.value for code in GrpcCode)


@pytest.mark.parametrize("kind", CATALOGUE.values(), ids=[reason.name for reason in CATALOGUE])
def test_every_kind_is_well_formed(kind: ErrorKind) -> None:
    assert 400 <= kind.http <= 599
    assert kind.type
    for sentence in (kind.sentence, kind.example):
        assert sentence.endswith(".")
        assert "\n" not in sentence
        assert "|" not in sentence, "it stands in a table"
    assert kind.http >= 500 or not kind.elsewhere, "what the caller did wrong is wrong elsewhere too"


def test_codes_are_unique() -> None:
    # With the type: OpenAI has one code for all limits, and the type says of what.
    codes = [(kind.type, kind.code) for kind in CATALOGUE.values() if kind.code]
    assert len(codes) == len(set(codes))


def test_an_error_says_its_sentence_unless_told_more() -> None:
    assert ServiceError(Reason.NO_WORKER).message == CATALOGUE[Reason.NO_WORKER].sentence
    error = ServiceError(Reason.FIELD_INVALID, "'model' must be a string.", param="model", retry_after=2)
    assert (str(error), error.param, error.retry_after) == ("'model' must be a string.", "model", 2)
    assert error.kind is CATALOGUE[Reason.FIELD_INVALID]


def test_the_page_is_current() -> None:
    page = runpy.run_path(str(DOCS / "errors.py"))["page"]()
    assert (DOCS / "errors.md").read_text(encoding="utf-8") == page, "run python docs/errors.py"

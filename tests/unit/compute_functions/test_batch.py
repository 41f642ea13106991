"""What needs no model server: the lines of the input, the places that are allowed, the file of what is done."""

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute_functions import batch as module
from compute_functions.batch import BatchError, Files, Input, batch

MODEL = "tiny"


def request_line(custom_id: Any = "a", url: str = "/v1/completions", **fields: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": {"prompt": "x"}, **fields})


def read(folder: Path, *lines: str) -> Input:
    (folder / "in.jsonl").write_text("\n".join(lines))
    return Input(folder / "in.jsonl", MODEL)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (request_line(), ""),
        (request_line(body={"model": MODEL}), ""),
        ("not json", "invalid_json_line"),
        ("[1]", "invalid_json_line"),
        (request_line(custom_id=None), "missing_required_parameter"),
        (request_line(custom_id=7), "missing_required_parameter"),
        (request_line(url="/v1/files"), "invalid_url"),
        (request_line(url="http://elsewhere/v1/completions"), "invalid_url"),
        (request_line(method="GET"), "invalid_url"),
        (request_line(body=None), "invalid_request"),
        (request_line(body={"stream": True}), "invalid_request"),
        (request_line(body={"model": "other"}), "mismatched_model"),
    ],
)
def test_lines_are_checked_before_vllm_is_asked(tmp_path: Path, line: str, code: str) -> None:
    [checked] = read(tmp_path, line).lines
    assert checked.refused[0] == code
    assert bool(checked.refused[1]) == bool(code)


def test_the_second_of_two_with_one_name_is_refused(tmp_path: Path) -> None:
    lines = read(tmp_path, request_line("a"), "", request_line("b"), request_line("a")).lines
    assert [line.refused[0] for line in lines] == ["", "", "duplicate_custom_id"]
    assert [line.number for line in lines] == [1, 3, 4]


def test_a_request_is_read_where_it_stands_and_given_the_model(tmp_path: Path) -> None:
    text = read(tmp_path, request_line("é" * 50), "", request_line("b", body={"n": 2**70, "t": "\ud800"}))
    with text.open() as opened:
        path, body = text.request(text.lines[1], opened)
    assert path == "/v1/completions"
    assert json.loads(body) == {"n": 2**70, "t": "\ud800", "model": MODEL}


@given(st.binary())
def test_no_input_makes_the_reader_fail(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_bytes(text)
    try:
        lines = Input(file, "").lines
    except BatchError:
        lines = []
    assert all(line.refused[0] for line in lines)


# Places


def test_a_batch_stays_in_the_folders_that_the_site_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "out").symlink_to(tmp_path)
    monkeypatch.setenv("WEFT_BATCH_FOLDERS", f"/nowhere:{tmp_path / 'open'}")
    module.allowed(tmp_path / "open" / "a" / "b", "output_folder")
    for outside in (tmp_path / "a", tmp_path / "open" / ".." / "a", tmp_path / "open" / "out" / "a", Path("a")):
        with pytest.raises(BatchError):
            module.allowed(outside, "output_folder")


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".a", "a" * 101, "a\n"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(BatchError, match="no id of a batch"):
        Files(tmp_path, name)


def test_what_is_wrong_with_a_request_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(**fields: Any) -> str:
        answer = batch({"input_file": str(tmp_path / "in"), "output_folder": str(tmp_path), "batch": "b", **fields})
        assert answer["status"] == "failed"
        return str(answer["detail"])

    monkeypatch.delenv("WEFT_VLLM_COMMAND", raising=False)
    assert "cannot be read: No such file" in told()
    assert "absolute path" in told(output_folder="out")
    assert "cannot be read" in told(concurrency="many")
    (tmp_path / "in").write_text("\n")
    assert "holds no request" in told()
    (tmp_path / "in").write_text(request_line())
    assert "WEFT_BATCH_VLLM_COMMAND" in told()


# What is done


def run_of(folder: Path, **fields: Any) -> module.Run:
    request = {"batch": "b", "input_file": str(folder / "in.jsonl"), "model": MODEL, **fields}
    return module.Run(Files(folder, "b"), request, threading.Event(), 0)


@given(cut=st.integers(0, 400), junk=st.binary(max_size=20))
def test_what_a_kill_left_half_written_is_asked_again(
    tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    read(folder, *(request_line(str(number)) for number in range(4)))
    first = run_of(folder)
    first.prepare()
    for line in first.input.lines[:3]:
        first.record(line, {"response": {"status_code": 200}, "error": None}, True)
    done = folder / "b.done.jsonl"
    whole = done.read_bytes()
    done.write_bytes(whole[: min(cut, len(whole))] + junk.replace(b"{", b"").lstrip())
    kept = whole[: min(cut, len(whole))].count(b"\n")

    again = run_of(folder)
    again.prepare()
    assert again.completed == kept
    for line in again.input.lines[kept:]:
        again.record(line, {"response": {"status_code": 200}, "error": None}, True)
    again.finish("completed", "")
    answers = [json.loads(line) for line in (folder / "b.output.jsonl").read_text().splitlines()]
    assert [answer["custom_id"] for answer in answers] == ["0", "1", "2", "3"]


def test_another_input_under_the_same_name_is_refused(tmp_path: Path) -> None:
    read(tmp_path, request_line("a"))
    run = run_of(tmp_path)
    run.prepare()
    run.write_progress("interrupted", "")
    read(tmp_path, request_line("b"))
    for _ in range(2):
        with pytest.raises(BatchError, match="another id"):
            run_of(tmp_path).prepare()
    run_of(tmp_path, resume=False).prepare()


def test_a_line_that_is_too_long_is_refused_and_the_next_one_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 100)
    text = read(tmp_path, request_line("a" * 300), request_line("b"), request_line("c" * 99))
    assert [(line.number, line.refused[0]) for line in text.lines] == [
        (1, "invalid_json_line"),
        (2, ""),
        (3, "invalid_json_line"),
    ]
    with text.open() as opened:
        assert text.request(text.lines[1], opened)[0] == "/v1/completions"
    assert text.sha256 == hashlib.sha256((tmp_path / "in.jsonl").read_bytes()).hexdigest()


def test_an_input_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in.jsonl")
    with pytest.raises(BatchError, match="it is no file"):
        Input(tmp_path / "in.jsonl", "")


def ask(folder: Path, **fields: Any) -> dict[str, Any]:
    named = {"input_file": str(folder / "in.jsonl"), "output_folder": str(folder), "batch": "b", "model": MODEL}
    return batch({**named, **fields})


@pytest.mark.parametrize("name", ["b.lock", "b.done.jsonl", "b.vllm.log", ".b.progress.json.partial"])
def test_whoever_may_write_in_the_folder_chooses_none_of_the_accounts_other_files(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEFT_VLLM_COMMAND", "sh -c 'echo x' {port}")
    read(tmp_path, request_line("a"), "not json")
    (tmp_path / "precious").write_text("kept")
    (tmp_path / name).symlink_to(tmp_path / "precious")
    assert ask(tmp_path, vllm_restarts=0)["status"] == "failed"
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_wish_to_stop_that_comes_too_late_is_for_no_later_run(tmp_path: Path) -> None:
    read(tmp_path, "not json")
    run = run_of(tmp_path)
    run.prepare()
    (tmp_path / "b.cancel").touch()  # between its last look and its end
    run.finish("completed", "")
    answer = ask(tmp_path, cancel=True)
    assert (answer["status"], answer["failed"]) == ("completed", 1)
    assert not (tmp_path / "b.cancel").exists()
    assert ask(tmp_path, resume=False)["status"] == "completed"


def test_progress_that_somebody_has_written_himself(tmp_path: Path) -> None:
    read(tmp_path, "not json")
    (tmp_path / "b.output.jsonl").touch()
    (tmp_path / "b.progress.json").write_text('{"status":"completed"}')
    answer = ask(tmp_path)
    assert (answer["status"], answer["detail"]) == ("completed", "It was completed before.")


# Threads that ask


class Held:
    """A vLLM that runs, or has ended with a code."""

    pid = 0

    def __init__(self, code: int | None = None) -> None:
        self._code = code

    def wait(self, seconds: float) -> int | None:
        return self._code

    def stop(self) -> None:
        pass


def test_an_input_that_is_gone_ends_the_batch(tmp_path: Path) -> None:
    read(tmp_path, request_line("a"))
    run = run_of(tmp_path)
    run.prepare()
    (tmp_path / "in.jsonl").unlink()
    with pytest.raises(FileNotFoundError):
        run._feed(run._waiting, 1, 1, Held())  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["x" * 200, request_line("other"), "[]", "", "{}"])
def test_an_input_that_was_changed_ends_the_batch(text: str, tmp_path: Path) -> None:
    read(tmp_path, request_line("a"))
    run = run_of(tmp_path)
    run.prepare()
    (tmp_path / "in.jsonl").write_text(text)
    with pytest.raises(BatchError, match="was changed"):
        run._feed(run._waiting, 1, 1, Held())  # type: ignore[arg-type]


def test_a_vllm_that_was_ended_with_us_makes_no_request_guilty(tmp_path: Path) -> None:
    read(tmp_path, request_line("a"))
    run = run_of(tmp_path)
    run.prepare()
    run._told.set()
    with pytest.raises(module.Stopped):
        run._feed(run._waiting, 1, module.free_port(), Held(-15))  # type: ignore[arg-type]
    assert (run.failed, (tmp_path / "b.done.jsonl").read_bytes()) == (0, b"")

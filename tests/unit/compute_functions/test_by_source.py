"""A function reaches the cluster as the text of its file: through the SDK's own serialiser, into a fresh Python."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from globus_compute_sdk.sdk.client import FunctionRegistrationData, FunctionRegistrationMetadata
from globus_compute_sdk.serialize import ComputeSerializer

import compute_functions

FOLDER = Path(compute_functions.__file__).parent
FILES = sorted(file for file in FOLDER.glob("*.py") if file.name != "__init__.py")

IN_A_FRESH_PYTHON = """
import json, sys
from globus_compute_sdk.serialize import ComputeSerializer
function = ComputeSerializer().deserialize(sys.stdin.read())
assert "compute_functions" not in sys.modules
print(json.dumps(function({})))
"""


def test_there_are_the_five_functions() -> None:
    names = [file.stem for file in FILES]
    assert names == ["batch", "inference", "probe", "queue_status", "start_worker"]
    for name in names:
        function = getattr(importlib.import_module(f"compute_functions.{name}"), name)
        assert len(inspect.signature(function).parameters) == 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_runs_from_its_text_in_a_fresh_python(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`register_source_code` sends the text as it is, and the service frames it for `PureSourceTextInspect`."""
    sent = FunctionRegistrationData(
        function_name=file.stem,
        function_code=file.read_text(),
        metadata=FunctionRegistrationMetadata(python_version="3.11", sdk_version="4.19.0"),
        serialized=False,
    ).to_dict()
    assert sent["function_code"] == file.read_text()
    payload = f"st\n{sent['function_name']}:{sent['function_code']}"
    assert ComputeSerializer().deserialize(payload).__name__ == file.stem

    monkeypatch.setenv("WEFT_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("WEFT_SCHEDULER", "local")
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PYTHON],
        input=payload,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{"), "even a request that says nothing has an answer"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_old_python_can_read_it(file: Path) -> None:
    ast.parse(file.read_text(), feature_version=(3, 9))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_needs_nothing_but_python(file: Path) -> None:
    needed = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            needed |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            needed.add((node.module or "").partition(".")[0])
    assert needed <= sys.stdlib_module_names


def test_what_is_in_two_files_is_the_same_in_both() -> None:
    """A text can import none of ours, so a few helpers stand in several files: a change must be made in all."""
    own = {"_run_folder", "Keeper", "KEEPER", "told_to_end", "redacted", "SECRETS", "reach", "_reach_one", "_proxy_for"}
    own |= {"_connect_through", "_site_flags", "_output", "job_of_this_process", "_slurm_end", "_pbs_end", "get"}
    own |= {"_account", "free_port", "_authorities", "BUNDLES", "_own", "untraced"}
    found: dict[str, set[str]] = {name: set() for name in own}
    copies = dict.fromkeys(own, 0)
    for file in FILES:
        for node in ast.parse(file.read_text()).body:
            named = node.targets[0] if isinstance(node, ast.Assign) else node
            name = getattr(named, "name", getattr(named, "id", ""))
            if name in own:
                found[name].add(ast.dump(node))
                copies[name] += 1
    assert {name for name, texts in found.items() if len(texts) != 1} == set()
    assert min(copies.values()) >= 2

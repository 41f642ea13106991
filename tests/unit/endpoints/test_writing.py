"""An endpoint's folder on disk: nothing that is registered or somebody else's is lost."""

from pathlib import Path

import pytest

from endpoints.mistakes import EndpointFilesError
from endpoints.render import Order, Rendered, render
from endpoints.writing import write


def rendered(*overrides: str) -> Rendered:
    return render(Order("local", "opt-125m", overrides=["any_function=true", *overrides], folder="/opt/e"), None)


def test_a_new_folder_gets_all_files_and_a_launch_script_that_runs(tmp_path: Path) -> None:
    write(rendered(), tmp_path / "e")
    names = {"config.yaml", "user_config_template.yaml.j2", "user_config_schema.json", "user_environment.yaml"}
    assert {path.name for path in (tmp_path / "e").iterdir()} == {*names, "launch_vllm.sh"}
    assert (tmp_path / "e" / "launch_vllm.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "e" / "config.yaml").stat().st_mode & 0o777 == 0o644


def test_rendering_the_same_again_writes_nothing_even_where_it_is_registered(tmp_path: Path) -> None:
    write(rendered(), tmp_path)
    (tmp_path / "endpoint.json").write_text("{}")
    assert write(rendered(), tmp_path) == []


def test_a_change_before_registration_is_written(tmp_path: Path) -> None:
    write(rendered(), tmp_path)
    assert [path.name for path in write(rendered("display_name=Another"), tmp_path)] == ["config.yaml"]


def test_a_registered_endpoint_changes_by_force_alone_and_stays_registered(tmp_path: Path) -> None:
    write(rendered(), tmp_path)
    (tmp_path / "endpoint.json").write_text('{"endpoint_id": "1"}')
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(
        EndpointFilesError, match=r"registered endpoint, and would change in config\.yaml; give --force"
    ):
        write(rendered("display_name=Another"), tmp_path)
    assert (tmp_path / "config.yaml").read_text() == before
    write(rendered("display_name=Another"), tmp_path, force=True)
    assert "Another" in (tmp_path / "config.yaml").read_text()
    assert (tmp_path / "endpoint.json").read_text() == '{"endpoint_id": "1"}'


def test_files_by_hand_are_replaced_by_force_alone_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("display_name: by hand\n")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(EndpointFilesError, match="did not write"):
        write(rendered(), tmp_path)
    write(rendered(), tmp_path, force=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "e"):
        with pytest.raises(EndpointFilesError, match="Not a directory; give another --output"):
            write(rendered(), folder)

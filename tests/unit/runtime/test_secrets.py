"""What is shown of a configuration holds no secret."""

from services.runtime.secrets import HIDDEN, hide_secrets


def test_secrets_are_hidden_by_their_names() -> None:
    shown = hide_secrets({"auth": {"api_key": "k", "token": "t", "password": "p", "address": "a:1"}})
    assert shown == {"auth": {"api_key": HIDDEN, "token": HIDDEN, "password": HIDDEN, "address": "a:1"}}


def test_paths_of_files_and_unset_secrets_are_shown() -> None:
    assert hide_secrets({"service_key_file": "/f", "api_key": None}) == {"service_key_file": "/f", "api_key": None}


def test_passwords_in_urls_are_hidden_also_in_lists() -> None:
    shown = hide_secrets({"database_urls": ["postgresql://weft:hunter2@db:5432/weft", "sqlite:///auth.db"]})
    assert shown == {"database_urls": [f"postgresql://weft:{HIDDEN}@db:5432/weft", "sqlite:///auth.db"]}

"""The configuration: what is read from where, and what is refused with which words."""

from pathlib import Path
from typing import Literal

import msgspec
import pytest

from services.runtime.config import Config, ConfigError, load_config


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_body_bytes: int = 1024
    names: tuple[str, ...] = ()
    on_excess: Literal["refuse", "clamp"] = "refuse"


class RouterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    address: str = "127.0.0.1:7000"
    first_byte_timeout_s: float = 600.0
    limits: Limits = Limits()


SECTIONS = {"router": RouterConfig}


def load(home: Path, text: str | None = None, **environ: str) -> Config:
    if text is not None:
        (home / "weft.yaml").write_text(text)
    return load_config(SECTIONS, {"WEFT_HOME": str(home), **environ})


def router(config: Config) -> RouterConfig:
    return config.section("router", RouterConfig)


def test_without_a_file_all_is_by_default(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.file is None
    assert config.home == tmp_path
    assert router(config) == RouterConfig()


def test_the_file_in_the_home_is_read(tmp_path: Path) -> None:
    config = load(tmp_path, "router: {address: '10.0.0.1:7000', limits: {names: [a, b]}}")
    assert config.file == tmp_path / "weft.yaml"
    assert router(config).address == "10.0.0.1:7000"
    assert router(config).limits.names == ("a", "b")


def test_an_empty_file_and_an_empty_section_are_all_defaults(tmp_path: Path) -> None:
    assert router(load(tmp_path, "")) == RouterConfig()
    assert router(load(tmp_path, "router:")) == RouterConfig()


def test_a_named_file_is_preferred_and_must_exist(tmp_path: Path) -> None:
    named = tmp_path / "other.yaml"
    named.write_text("router: {address: 'there:1'}")
    assert router(load(tmp_path, "router: {address: 'here:1'}", WEFT_CONFIG=str(named))).address == "there:1"
    with pytest.raises(ConfigError, match=r"Cannot read the configuration .*missing\.yaml: No such file"):
        load(tmp_path, WEFT_CONFIG=str(tmp_path / "missing.yaml"))


def test_the_environment_overrides_at_any_depth_and_is_read_as_yaml(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "router: {first_byte_timeout_s: 5}",
        WEFT_ROUTER__FIRST_BYTE_TIMEOUT_S="7.5",
        WEFT_ROUTER__LIMITS__NAMES='["x"]',
    )
    assert router(config) == RouterConfig(first_byte_timeout_s=7.5, limits=Limits(names=("x",)))


def test_variables_without_a_section_are_none_of_ours(tmp_path: Path) -> None:
    assert router(load(tmp_path, WEFT_ALL_PARTS="1", WEFT_API_KEY="k")) == RouterConfig()


def test_the_home_of_the_environment_goes_before_the_files(tmp_path: Path) -> None:
    file = tmp_path / "weft.yaml"
    file.write_text("home: /var/lib/weft")
    assert load_config(SECTIONS, {}, file).home == Path("/var/lib/weft")
    assert load_config(SECTIONS, {"WEFT_HOME": "/elsewhere"}, file).home == Path("/elsewhere")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ruter: {}", "there is no section 'ruter'; the nearest known is 'router'."),
        ("router: {adress: x}", "there is no setting 'router.adress'; the nearest known is 'address'."),
        (
            "router: {limits: {max_body: 1}}",
            "there is no setting 'router.limits.max_body'; the nearest known is 'max_body_bytes'.",
        ),
        ("router: {zzz: 1}", "known are address, first_byte_timeout_s, limits."),
        ("router: {address: 7000}", "'router.address': expected `str`, got `int`."),
        ("router: {limits: {max_body_bytes: big}}", "'router.limits.max_body_bytes': expected `int`, got `str`."),
        ("router: {limits: {names: [1]}}", "'router.limits.names[0]': expected `str`, got `int`."),
        (
            "router: {limits: {on_excess: clmap}}",
            "'router.limits.on_excess': invalid enum value 'clmap'; it may be 'clamp' or 'refuse'.",
        ),
        ("router: 7", "'router' must be a section of settings."),
        ("- router", "must hold sections"),
        ("router: [", "is not YAML"),
        (
            "router: {address: x}\nrouter: {limits: {}}",
            "is not YAML: line 2: 'router' is there twice; put all of it into one.",
        ),
        ("router: {address: x, address: y}", "'address' is there twice"),
        ("home: 7", "'home' must be the path of a folder."),
    ],
)
def test_a_wrong_file_is_refused_with_file_and_path(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(tmp_path, text)
    assert str(refusal.value).startswith(str(tmp_path / "weft.yaml"))
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("WEFT_RUTER__ADDRESS", "x", "there is no section 'ruter'; the nearest known is 'router'."),
        ("WEFT_ROUTER__ADRESS", "x", "there is no setting 'router.adress'; the nearest known is 'address'."),
        ("WEFT_ROUTER__ADDRESS", "7000", "'router.address': expected `str`, got `int`."),
        ("WEFT_ROUTER__LIMITS__NAMES", "[", "is not YAML"),
    ],
)
def test_a_wrong_variable_is_refused_by_its_name(tmp_path: Path, variable: str, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(tmp_path, "router: {first_byte_timeout_s: 5}", **{variable: text})
    assert str(refusal.value).startswith(variable)
    assert words in str(refusal.value)

"""The configuration: one file, a section per service, overridden by `WEFT_SECTION__KEY`.

Which sections there are, and of what type each is, the caller says. Everything unknown is refused, with the nearest
known key, because a misspelt key that is ignored looks like a setting that does not work.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from services.runtime.config_keys import choices, nearest, unknown_keys
from services.runtime.home import find_home

_Section = TypeVar("_Section")

Sections = Mapping[str, type[Any]]
"""The type of each section: a msgspec struct or a dataclass."""

_VARIABLE = re.compile(r"WEFT_([A-Z0-9]+)__([A-Z0-9_]+)")


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, as YAML asks: PyYAML takes the last one, and a policy further up is lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """See `yaml.SafeLoader`. Raises yaml.YAMLError."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                why = f"'{key.value}' is there twice; put all of it into one"
                raise yaml.constructor.ConstructorError(None, None, why, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class ConfigError(Exception):
    """A wrong configuration; the message names where and what."""


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration, checked. `file` is None where there is none and all is by default."""

    home: Path
    file: Path | None
    sections: Mapping[str, Any]

    def section(self, name: str, kind: type[_Section]) -> _Section:
        """One section. Raises KeyError or TypeError if the caller did not ask for it so when loading."""
        value = self.sections[name]
        if not isinstance(value, kind):
            raise TypeError(f"the section {name!r} is a {type(value).__name__}, not a {kind.__name__}")
        return value


def load_config(sections: Sections, environ: Mapping[str, str], file: Path | None = None) -> Config:
    """Reads the file given, else `$WEFT_CONFIG`, else `weft.yaml` in the home; a named file must exist.

    Raises `ConfigError`.
    """
    path = _find_file(environ, file)
    tree = _read(path) if path is not None else {}
    home = tree.pop("home", None)
    if home is not None and not isinstance(home, str):
        raise ConfigError(f"{path}: 'home' must be the path of a folder.")
    for key, value in tree.items():
        _check_section(str(path), sections, key, value)
    origins: dict[str, str] = {}
    for variable, section, keys, value in _overrides(environ):
        _override(tree, sections, variable, section, keys, value)
        origins[".".join((section, *keys))] = variable
    loaded = {name: _convert(name, kind, tree.get(name) or {}, path, origins) for name, kind in sections.items()}
    found = Path(home).expanduser() if home and not environ.get("WEFT_HOME") else find_home(environ)
    return Config(found, path, loaded)


def _find_file(environ: Mapping[str, str], file: Path | None) -> Path | None:
    if file is None and environ.get("WEFT_CONFIG"):
        file = Path(environ["WEFT_CONFIG"]).expanduser()
    if file is not None:
        return file
    default = find_home(environ) / "weft.yaml"
    return default if default.exists() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = _Loader(path.read_bytes()).get_single_data()
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {_problem(error)}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold sections, 'router:' for instance, each with its settings.")
    return tree


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}."
    return " ".join(str(error).split())


def _check_section(source: str, sections: Sections, name: object, value: object) -> None:
    if not isinstance(name, str) or name not in sections:
        raise ConfigError(f"{source}: there is no section {str(name)!r}; {nearest(str(name), ['home', *sections])}.")
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{source}: {name!r} must be a section of settings.")
    for path, known in unknown_keys(sections[name], value or {}):
        whole, key = ".".join((name, *path)), path[-1]
        raise ConfigError(f"{source}: there is no setting {whole!r}; {nearest(key, known)}.")


def _overrides(environ: Mapping[str, str]) -> Iterator[tuple[str, str, list[str], Any]]:
    for variable, text in sorted(environ.items()):
        if (match := _VARIABLE.fullmatch(variable)) is None:
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{variable} is not YAML: {' '.join(str(error).split())}") from error
        yield variable, match[1].lower(), match[2].lower().split("__"), value


def _override(
    tree: dict[str, Any], sections: Sections, variable: str, section: str, keys: list[str], value: Any
) -> None:
    alone: dict[str, Any] = {keys[-1]: value}
    for key in reversed(keys[:-1]):
        alone = {key: alone}
    _check_section(variable, sections, section, alone)
    place = tree[section] = tree.get(section) or {}
    for key in keys[:-1]:
        place = place.setdefault(key, {})
    place[keys[-1]] = value


def _convert(name: str, kind: type[Any], value: Any, path: Path | None, origins: Mapping[str, str]) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        where = where.rstrip("`")
        setting = name + where
        if words := choices(kind, where):
            what += f"; it may be {' or '.join(words)}"
        source = next((origins[key] for key in origins if setting.startswith(key)), path or "defaults")
        raise ConfigError(f"{source}: '{setting}': {what[:1].lower()}{what[1:]}.") from error

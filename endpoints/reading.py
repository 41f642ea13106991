"""Reads sites, models and settings; refuses unknown keys with the nearest known one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import inspect

from endpoints.mistakes import EndpointFilesError
from endpoints.model import Model
from endpoints.settings import Settings
from endpoints.site import Site

HERE = Path(__file__).parent
_TIME = re.compile(r"\d+(:\d\d)+")
_Kind = TypeVar("_Kind", Site, Model, Settings)
Tree = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """YAML without the numbers to the base of 60: 24:00:00 is a text, with quotes or without."""


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    if _TIME.fullmatch(node.value):
        return node.value
    return loader.construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _number)


def _parsed(text: str | bytes) -> Any:
    return _Loader(text).get_single_data()


def known(folder: str) -> list[str]:
    """The names of the `sites` or the `models` that come with Weft."""
    return sorted(path.stem for path in (HERE / folder).glob("*.yaml"))


def read(folder: str, name: str) -> tuple[str, Tree]:
    """The name and the tree of one of the `sites` or `models`: one that comes with Weft, or the path of a file.

    Raises EndpointFilesError.
    """
    path = HERE / folder / f"{name}.yaml"
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
    elif not path.is_file():
        raise EndpointFilesError(
            f"There is no {folder.removesuffix('s')} {name!r} ({nearest(name, known(folder))}); give one of "
            "'weft endpoints render --list', or the path of a YAML file of your own."
        )
    return path.stem, read_tree(path)


def read_tree(path: Path) -> Tree:
    """The mapping in a YAML file. Raises EndpointFilesError."""
    try:
        tree = _parsed(path.read_bytes())
    except OSError as error:
        raise EndpointFilesError(f"Cannot read {path}: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise EndpointFilesError(f"{path} is not YAML: {yaml_fault(error)}.") from error
    if not isinstance(tree, dict):
        raise EndpointFilesError(f"{path} must hold a mapping of settings.")
    return tree


def with_overrides(site: Tree, model: Tree, settings: Tree, overrides: Sequence[str]) -> tuple[Tree, Tree, Tree]:
    """The three trees, with what the settings say of `site` and `model` merged into those, and with what `KEY=VALUE`
    texts change: `site.KEY`, `model.KEY`, or a setting's KEY; dots lead deeper, values are YAML.

    Raises EndpointFilesError.
    """
    whole = _merged({"site": site, "model": model}, settings)
    for text in overrides:
        key, value = override(text)
        *way, last = key.split(".")
        place = whole
        for step in way:
            inner = place.get(step)
            place[step] = place = dict(inner) if isinstance(inner, dict) else {}
        place[last] = value
    site, model = whole.pop("site"), whole.pop("model")
    if not isinstance(site, dict) or not isinstance(model, dict):
        raise EndpointFilesError("'site' and 'model' hold settings of theirs; name them with --site and --model.")
    return site, model, whole


def override(text: str) -> tuple[str, Any]:
    """The key and the value of a `KEY=VALUE`, the value being YAML. Raises EndpointFilesError."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise EndpointFilesError(f"--set takes KEY=VALUE, not {text!r}.")
    try:
        return key, _parsed(value)
    except yaml.YAMLError as error:
        raise EndpointFilesError(f"The value of --set {key} is not YAML: {yaml_fault(error)}.") from error


def convert(kind: type[_Kind], tree: Mapping[str, Any], source: str) -> _Kind:
    """A tree as what it tells of. Raises EndpointFilesError."""
    for path, fields in _unknown(inspect.type_info(kind), tree, ()):
        raise EndpointFilesError(f"{source}: there is no setting {'.'.join(path)!r}; {nearest(path[-1], fields)}.")
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        setting = where.rstrip("`")
        raise EndpointFilesError(f"{source}: {_plain(what, setting, kind)}.") from error


def yaml_fault(error: yaml.YAMLError) -> str:
    """What is wrong with a YAML text, and where."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"{error.problem}, in line {mark.line + 1}, column {mark.column + 1}"


def nearest(key: str, names: Iterable[str]) -> str:
    """Words that lead from a wrong name to the right one."""
    names = sorted(names)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    return f"the nearest known is {close[0]!r}" if close else f"known are {', '.join(names) or 'none'}"


def _plain(what: str, setting: str, kind: type[Any]) -> str:
    """msgspec's words as an administrator reads them."""
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", what):
        return f"{'.'.join(filter(None, (setting, missing[1])))!r} is missing"
    if wrong := re.fullmatch(r"Invalid enum value (.*)", what):
        return f"{setting!r} cannot be {wrong[1]}; it is one of {', '.join(_choices(kind, setting.split('.')))}"
    what = what.replace("`object`", "a mapping").replace("`object |", "`mapping |").replace("null", "nothing")
    return f"{setting!r}: {what[:1].lower()}{what[1:]}"


def _choices(kind: type[Any], way: Sequence[str]) -> list[str]:
    """The values that a setting may have."""
    found: list[inspect.Type] = [inspect.type_info(kind)]
    for step in way:
        members = [m for one in found for m in (one.types if isinstance(one, inspect.UnionType) else (one,))]
        found = [
            field.type
            for member in members
            if isinstance(member, inspect.StructType)
            for field in member.fields
            if field.encode_name == step
        ]
    return [str(value) for one in found if isinstance(one, inspect.LiteralType) for value in one.values]


def _merged(tree: Tree, over: Tree) -> Tree:
    merged = dict(tree)
    for key, value in over.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def _unknown(kind: inspect.Type, value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    if isinstance(kind, inspect.UnionType):
        for member in kind.types:
            yield from _unknown(member, value, path)
    elif isinstance(kind, inspect.StructType) and isinstance(value, dict):
        fields = {field.encode_name: field.type for field in kind.fields}
        for key, inner in value.items():
            if key in fields:
                yield from _unknown(fields[key], inner, (*path, str(key)))
            else:
                yield (*path, str(key)), list(fields)
    elif isinstance(kind, inspect.VarTupleType) and isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _unknown(kind.item_type, inner, (*path, str(index)))

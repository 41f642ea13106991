"""Parses configurations of Envoy with its own protos: a program for the environment of build_xds.py.

Reads a JSON object of configurations by name from standard input, and writes one of what is wrong with each: nothing
where all is known to the protos.
"""

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import envoy.config.bootstrap.v3.bootstrap_pb2 as bootstrap_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format

ROOT = Path(os.path.dirname(bootstrap_pb2.__file__)).parents[2]


def types_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "@type" in value:
            yield value["@type"].partition("/")[2]
        for inner in value.values():
            yield from types_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from types_in(inner)


def register(kind: str) -> None:
    """Imports the package of a message that stands in an `Any`: what is not imported cannot be parsed."""
    package = kind.rpartition(".")[0]
    for file in sorted((ROOT.parent / package.replace(".", "/")).glob("*_pb2.py")):
        importlib.import_module(f"{package}.{file.stem}")


def wrong_with(plain: Any) -> str:
    for kind in sorted(set(types_in(plain))):
        register(kind)
    message = discovery_pb2.DiscoveryResponse() if "resources" in plain else bootstrap_pb2.Bootstrap()
    try:
        json_format.ParseDict(plain, message)
    except json_format.ParseError as error:
        return str(error)
    return ""


json.dump({name: wrong_with(plain) for name, plain in json.load(sys.stdin).items()}, sys.stdout)

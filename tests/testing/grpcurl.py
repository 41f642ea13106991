"""A small grpcurl, by server reflection alone: `python -m tests.testing.grpcurl [FLAGS] ADDRESS list | SERVICE/METHOD`.

Debian has no package of the real one. This takes those of its flags that the documentation uses, and refuses others.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SECONDS = 20.0


def main() -> None:
    """Prints what is listed, or each answer as JSON; ends with 1 and the status if the call fails."""
    given = _arguments()
    options = [("grpc.ssl_target_name_override", given.authority)] if given.authority else []
    with _channel(given, options) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        if given.what == "list":
            print("\n".join(sorted(database.get_services())))
            return
        service, _, name = given.what.rpartition("/")
        method = DescriptorPool(database).FindServiceByName(service).methods_by_name[name]
        kinds = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        request = json_format.Parse(given.d, kinds[0]())
        headers = tuple((name.strip().lower(), value.strip()) for name, _, value in (h.partition(":") for h in given.H))
        # It reads one answer, or many.
        call: Any = channel.unary_stream(f"/{given.what}", kinds[0].SerializeToString, kinds[1].FromString)
        try:
            for answer in call(request, metadata=headers, timeout=SECONDS):
                print(json_format.MessageToJson(answer, ensure_ascii=False))
        except grpc.RpcError as failed:
            sys.exit(f"ERROR:\n  Code: {failed.code().name}\n  Message: {failed.details()}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("-plaintext", action="store_true")
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d", default="{}")
    for name in ("-cacert", "-cert", "-key", "-authority"):
        parser.add_argument(name, default="")
    parser.add_argument("address")
    parser.add_argument("what")
    return parser.parse_args()


def _channel(given: argparse.Namespace, options: list[tuple[str, str]]) -> grpc.Channel:
    if given.plaintext:
        return grpc.insecure_channel(given.address, options)
    files = (Path(name).read_bytes() if name else None for name in (given.cacert, given.key, given.cert))
    return grpc.secure_channel(given.address, grpc.ssl_channel_credentials(*files), options)


if __name__ == "__main__":
    main()

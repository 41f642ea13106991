"""Run under the agent's Python: renders user endpoints' configurations as the agent does.

Standard input has a list of [folder, variables, local user]; standard output gets, for each, {"config": …} or
{"refused": …}.
"""

import json
import pwd
import sys
from pathlib import Path

import yaml
from globus_compute_endpoint.endpoint.config.utils import (
    get_config,
    load_user_config_schema,
    load_user_config_template,
    render_config_user_template,
)
from globus_compute_endpoint.endpoint.identity_mapper import MappedPosixIdentity

ME = pwd.getpwuid(0)


def rendered(folder: Path, variables: dict, user: str) -> dict:
    path = folder / "user_config_template.yaml.j2"
    schema = load_user_config_schema(folder / "user_config_schema.json")
    record = pwd.struct_passwd((user, *tuple(ME)[1:]))
    identity = MappedPosixIdentity(record, [], "00000000-0000-4000-8000-000000000000")
    text = load_user_config_template(path)
    try:
        text = render_config_user_template(get_config(folder), text, path, identity, schema, variables, {})
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    return {"config": yaml.safe_load(text)}


print(json.dumps([rendered(Path(folder), variables, user) for folder, variables, user in json.load(sys.stdin)]))

"""Checks `user_config_template.yaml.j2` and its schema: renders them as the agent does, for what Weft sends."""

from __future__ import annotations

import json
import os
import platform
import pwd
import re
import shlex
import uuid
from collections.abc import Iterator
from typing import Any

import jinja2
import jsonschema
import yaml
from globus_compute_endpoint.endpoint.config import CoreEndpointConfig
from globus_compute_endpoint.endpoint.config.utils import (
    load_user_config_schema,
    load_user_config_template,
    render_config_user_template,
)
from globus_compute_endpoint.endpoint.identity_mapper import MappedPosixIdentity

from endpoints.checking.core import CoreConfig
from endpoints.checking.finding import Finding
from endpoints.checking.places import line_of, line_with

Variables = dict[str, Any]
SENT: Variables = {"weft_endpoint": "clusters/check/endpoints/check", "weft_slot": 0}
"""What Weft's launcher sends with every start."""

_HOSTILE = ("a'; touch weft-was-here; 'b", "$(touch weft-was-here)", 'a" b: c', "a\n#SBATCH --chdir=/\nb: c", "a b")
_HOURS = (9999, 720, 336, 168, 120, 96, 72, 48, 24, 12, 6, 2, 1)


class Template:
    """The template of a folder: `findings` of its check, and its rendering for those who look into that."""

    def __init__(self, core: CoreConfig, given: Variables) -> None:
        self._core = core
        self._path = core.path("user_config_template_path", "user_config_template.yaml.j2")
        self._schema_path = core.path("user_config_schema_path", "user_config_schema.json")
        self.name = self._path.name
        self.text = ""
        self.schema: dict[str, Any] | None = None
        self.variables: Variables = {}
        self.findings = list(self._check(given))

    def render(self, variables: Variables) -> str:
        """As the agent does. Raises what it raises."""
        record = pwd.getpwuid(os.getuid())
        identity = MappedPosixIdentity(
            local_user_record=record, matched_identity=uuid.UUID(int=0), globus_identity_candidates=[]
        )
        runtime = {"python_version": platform.python_version(), "python": {"version": platform.python_version()}}
        config = self._core.loaded or CoreEndpointConfig()
        return str(
            render_config_user_template(config, self.text, self._path, identity, self.schema, variables, runtime)
        )

    def longest(self) -> Variables:
        """The variables with the longest walltime that the schema lets pass."""
        for hours in _HOURS:
            variables = {**self.variables, "walltime": f"{hours:02d}:00:00"}
            if self._accepts(variables):
                return variables
        return self.variables

    def _check(self, given: Variables) -> Iterator[Finding]:
        try:
            self.text = load_user_config_template(self._path)
        except OSError as error:
            yield Finding(self.name, 0, "", f"cannot be read: {error.strerror}", "render the endpoint anew")
            return
        yield from self._check_schema()
        self.variables = {**self._samples(), **SENT, **given}
        if self.schema is not None:
            yield from self._check_variables()
        yield from self._check_rendering()
        yield from self._check_hostile()

    def _check_schema(self) -> Iterator[Finding]:
        name = self._schema_path.name
        if not self._schema_path.exists():
            yield Finding(name, 0, "", "is missing: any variable passes", "render the endpoint anew", warning=True)
            return
        try:
            schema = load_user_config_schema(self._schema_path)
            jsonschema.validators.validator_for(schema).check_schema(schema)
        except json.JSONDecodeError as error:
            yield Finding(name, error.lineno, "", f"is not JSON: {error.msg}", "mend it")
            return
        except jsonschema.SchemaError as error:
            way = [str(step) for step in error.absolute_path]
            field = ".".join(way)
            yield Finding(
                name,
                line_of(self._schema_path.read_text(), way),
                field,
                f"is no JSON schema: {error.message}",
                "mend it",
            )
            return
        self.schema = schema
        if schema is not None and schema.get("additionalProperties", True) is not False:
            at = self._schema_line("additionalProperties")
            remedy = 'set "additionalProperties": false'
            yield Finding(name, at, "additionalProperties", "lets unknown variables pass", remedy, warning=True)

    def _check_variables(self) -> Iterator[Finding]:
        """Whether the schema takes what Weft sends, and what this check made up for the site's own variables."""
        name = self._schema_path.name
        validator = jsonschema.validators.validator_for(self.schema)(self.schema)
        for error in validator.iter_errors(self.variables):
            way = ".".join(map(str, error.absolute_path))
            missing = re.match(r"'(\w+)' is a required property", error.message)
            refused = [key for key in SENT if repr(key) in error.message]
            field = way or (missing[1] if missing else ",".join(refused))
            if field.split(".")[0].split(",")[0] in SENT:
                problem, remedy = f"refuses what Weft sends: {error.message}", "allow weft_endpoint and weft_slot"
            elif not field:
                problem, remedy = error.message, "leave out of --set what the schema does not know"
            else:
                problem, remedy = error.message, f"give a value that fits, for the check: --set {field}=VALUE"
            yield Finding(name, self._schema_line(field), field, problem, remedy)

    def _check_rendering(self) -> Iterator[Finding]:
        try:
            yaml.safe_load(self.render(self.variables))
        except jinja2.TemplateSyntaxError as error:
            yield Finding(self.name, error.lineno, "", f"is no Jinja template: {error.message}", "mend it")
        except jinja2.UndefinedError as error:
            variable = re.search(r"'([^']+)'", str(error))
            at = line_with(self.text, variable[1]) if variable else 0
            remedy = "give it a default, or make it required in user_config_schema.json"
            yield Finding(
                self.name, at, variable[1] if variable else "", f"uses a variable that nobody gives: {error}", remedy
            )
        except jinja2.exceptions.SecurityError as error:
            yield Finding(self.name, 0, "", f"does what the agent forbids: {error}", "mend it")
        except yaml.YAMLError as error:
            yield Finding(self.name, 0, "", f"does not give YAML: {' '.join(str(error).split())}", "mend it")
        except jsonschema.ValidationError:
            return  # said already
        except Exception as error:
            yield Finding(self.name, 0, "", f"cannot be rendered: {error}", "mend it")

    def _check_hostile(self) -> Iterator[Finding]:
        """Whether a text that a user sends can leave its place in the YAML, the shell or a directive."""
        for name in (self.schema or {}).get("properties", {}):
            for value in _HOSTILE:
                variables = {**self.variables, name: value}
                if not self._accepts(variables):
                    continue
                problem = self._escapes(variables, value)
                if problem:
                    remedy = f"write {{{{ {name} | shell_escape }}}} as a whole value, and give the schema a pattern"
                    yield Finding(self.name, line_with(self.text, name), name, problem, remedy)
                    break

    def _escapes(self, variables: Variables, value: str) -> str | None:
        try:
            found = yaml.safe_load(self.render(variables))
        except yaml.YAMLError:
            return f"the value {value!r} breaks the YAML"
        except Exception:
            return None  # refused, by the template itself
        harmless = yaml.safe_load(self.render(self.variables))
        if _shape(found) != _shape(harmless):
            return f"the value {value!r} changes other settings than its own"
        provider = found.get("engine", {}).get("provider", {}) if isinstance(found, dict) else {}
        for key, text in provider.items():
            if not isinstance(text, str):
                continue
            # A directive ends with its line, whatever quotes stand around the line's break.
            cut = "\n" in value and key != "worker_init" and value in text
            if cut or value in text.replace(shlex.quote(value), ""):
                return f"the value {value!r} reaches the job's script in {key!r} as it is"
        return None

    def _accepts(self, variables: Variables) -> bool:
        if self.schema is None:
            return True
        validator = jsonschema.validators.validator_for(self.schema)(self.schema)
        return bool(validator.is_valid(variables))

    def _samples(self) -> Variables:
        """A value for each of the site's own variables that has to be given."""
        schema = self.schema or {}
        found: Variables = {}
        for name in schema.get("required", []):
            told = schema.get("properties", {}).get(name)
            if told is None:
                continue  # and the schema's check says that it is needed and not known
            if "enum" in told:
                found[name] = told["enum"][0]
            else:
                found[name] = {"integer": 1, "number": 1, "boolean": True}.get(told.get("type", ""), "sample")
        return found

    def _schema_line(self, field: str) -> int:
        text = self._schema_path.read_text() if self._schema_path.exists() else ""
        return line_with(text, f'"{field.split(".")[-1]}"') if field else 1


def _shape(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _shape(value) for key, value in tree.items()}
    return [_shape(value) for value in tree] if isinstance(tree, list) else type(tree).__name__

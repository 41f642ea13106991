"""Checks `config.yaml`, the identity mapping and the user environment."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from globus_compute_endpoint.endpoint.config import CoreEndpointConfig
from globus_compute_endpoint.endpoint.config.utils import load_config_yaml
from globus_compute_endpoint.endpoint.identity_mapper import PosixIdentityMapper

from endpoints.checking.faults import core_keys, faults_of
from endpoints.checking.finding import Finding, nearest
from endpoints.checking.places import line_of, line_with

CONFIG = "config.yaml"
_PORTS = (443, 5671, 5672)
_UUIDS = ("allowed_functions", "admins", "authentication_policy", "subscription_id")
_PATHS = ("identity_mapping_config_path", "user_config_template_path", "user_config_schema_path")


class CoreConfig:
    """`config.yaml` of a folder: `findings` of its check, and what later checks need of it."""

    def __init__(self, folder: Path, identity: str | None) -> None:
        self.folder = folder
        self.loaded: CoreEndpointConfig | None = None
        self.tree: dict[str, Any] = {}
        self.text = ""
        self.findings = list(self._check(identity))

    def path(self, key: str, default: str) -> Path:
        """The file that a path of the configuration means, in this folder if it is not where it says."""
        named = self.tree.get(key)
        if isinstance(named, str) and Path(named).exists():
            return Path(named)
        return self.folder / (Path(named).name if isinstance(named, str) else default)

    def _check(self, identity: str | None) -> Iterator[Finding]:
        try:
            self.text = (self.folder / CONFIG).read_text()
        except OSError as error:
            yield Finding(CONFIG, 0, "", f"cannot be read: {error.strerror}", "render the endpoint anew")
            return
        if (self.folder / "config.py").exists():
            yield Finding("config.py", 0, "", f"is used instead of {CONFIG}", "remove it")
        try:
            tree = yaml.safe_load(self.text) or {}
        except yaml.YAMLError as error:
            line = error.problem_mark.line + 1 if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark else 0
            yield Finding(CONFIG, line, "", f"is not YAML: {' '.join(str(error).split())}", "mend it")
            return
        if not isinstance(tree, dict):
            yield Finding(CONFIG, 1, "", "holds no mapping of settings", "render the endpoint anew")
            return
        self.tree = tree
        yield from self._keys()
        yield from self._load()
        yield from self._assurance()
        yield from self._mapping(identity)
        yield from self._environment()

    def _at(self, *way: str) -> int:
        return line_of(self.text, way)

    def _keys(self) -> Iterator[Finding]:
        for key in self.tree:
            if key == "engine":
                remedy = "move it there, or run 'globus-compute-endpoint migrate-to-template-capable'"
                yield Finding(
                    CONFIG,
                    self._at(key),
                    key,
                    "in version 4 an engine belongs into user_config_template.yaml.j2",
                    remedy,
                )
            elif key == "multi_user":
                remedy = "remove it: an endpoint of root with an identity mapping is multi-user"
                yield Finding(CONFIG, self._at(key), key, "is of older versions, and stops the endpoint", remedy)
            elif key not in core_keys():
                yield Finding(CONFIG, self._at(key), str(key), "is not known", nearest(str(key), core_keys()))

    def _load(self) -> Iterator[Finding]:
        """Loads what is known of it, with files that are in this folder taken for those of the installed one."""
        known = {key: value for key, value in self.tree.items() if key in core_keys()}
        for key in _PATHS:
            if key not in known:
                continue
            found = self.path(key, "")
            if not found.exists():
                yield Finding(CONFIG, self._at(key), key, f"{known[key]} does not exist", "name a file that does")
                del known[key]
            elif str(found) != known[key]:
                problem = f"{known[key]} is not there; {found.name} of this folder was checked"
                yield Finding(CONFIG, self._at(key), key, problem, "copy the folder to where it says", warning=True)
                known[key] = str(found)
        for key in set(_UUIDS) & set(known):
            value = known[key]
            wrong = [one for one in (value if isinstance(value, list) else [value]) if not _is_uuid(one)]
            for one in wrong:
                yield Finding(CONFIG, line_with(self.text, str(one)), key, f"{one!r} is no UUID", "write a UUID")
            if wrong:
                del known[key]
        try:
            self.loaded = load_config_yaml(yaml.safe_dump(known))
        except Exception as error:
            for way, problem in faults_of(error):
                field = ".".join(way)
                # An old kind of error names no field: its value stands in the text.
                line = self._at(*way) or line_with(self.text, problem.split("'")[1] if "'" in problem else "\0")
                yield Finding(CONFIG, line, field, problem, "correct the value")
        port = self.tree.get("amqp_port")
        if port is not None and port not in _PORTS:
            yield Finding(
                CONFIG, self._at("amqp_port"), "amqp_port", f"Globus does not listen on {port}", "443 or 5671"
            )

    def _assurance(self) -> Iterator[Finding]:
        if self.tree.get("high_assurance") is True:
            for key in ("subscription_id", "authentication_policy"):
                if not self.tree.get(key):
                    at = self._at("high_assurance")
                    yield Finding(
                        CONFIG,
                        at,
                        key,
                        "is missing, and high assurance needs it",
                        "set it to that of a high-assurance subscription",
                    )
            if not self.tree.get("audit_log_path"):
                at = self._at("high_assurance")
                yield Finding(CONFIG, at, "audit_log_path", "is missing: no task is logged", "set it", warning=True)
        elif self.tree.get("audit_log_path"):
            at = self._at("audit_log_path")
            yield Finding(CONFIG, at, "audit_log_path", "is ignored without high_assurance", "set high_assurance: true")
        if self.tree.get("admins") and not self.tree.get("subscription_id"):
            yield Finding(CONFIG, self._at("admins"), "admins", "needs a subscription", "set subscription_id")

    def _mapping(self, identity: str | None) -> Iterator[Finding]:
        if "identity_mapping_config_path" not in self.tree:
            if identity is not None:
                problem = f"is missing, so nobody is mapped, {identity} neither: only the endpoint's owner may use it"
                remedy = "render with identity_mapping"
                yield Finding(CONFIG, 0, "identity_mapping_config_path", problem, remedy)
            return
        if not self.tree.get("email"):
            at = self._at("identity_mapping_config_path")
            problem = "is missing: root's agent does not start a multi-user endpoint without a contact"
            yield Finding(CONFIG, at, "email", problem, "set it to the administrators' address")
        path = self.path("identity_mapping_config_path", "identity_mapping.json")
        if not path.exists():
            return
        text = path.read_text()
        try:
            mapper = PosixIdentityMapper(path, "check")
        except json.JSONDecodeError as error:
            yield Finding(path.name, error.lineno, "", f"is not JSON: {error.msg}", "mend it")
            return
        except Exception as error:
            yield Finding(path.name, *_place(text, str(error)), "see Globus's identity mapping guide")
            return
        if len(mapper.identity_mappings) < len(json.loads(text)):
            problem = "is of a kind that nothing here maps; the agent passes over it"
            remedy = "write expression_identity_mapping#1.0.0 or external_identity_mapping#1.0.0"
            yield Finding(path.name, line_with(text, '"DATA_TYPE"'), "DATA_TYPE", problem, remedy)
        yield from _loose(path.name, text)
        if identity is not None:
            mapped = [
                name for rule in mapper.map_identities([_person(identity)]) for one in rule for name in one.values()
            ]
            if not mapped:
                yield Finding(path.name, 0, "mappings", f"maps {identity} to nobody", "add a rule for that identity")
        mapper.stop_watching()

    def _environment(self) -> Iterator[Finding]:
        name = "user_environment.yaml"
        path = self.folder / name
        if not path.exists():
            return
        text = path.read_text()
        try:
            tree = yaml.safe_load(text) or {}
        except yaml.YAMLError as error:
            yield Finding(name, 0, "", f"is not YAML, and is ignored: {' '.join(str(error).split())}", "mend it")
            return
        if not isinstance(tree, dict):
            yield Finding(name, 1, "", "holds no variables, and is ignored", "write NAME: value")
            return
        for key, value in tree.items():
            if isinstance(value, dict | list):
                problem = "has more than one value; a variable of the environment is one text"
                yield Finding(name, line_of(text, [str(key)]), str(key), problem, "write NAME: value")


def _is_uuid(value: object) -> bool:
    try:
        uuid.UUID(str(value))
    except ValueError:
        return False
    return True


def _place(text: str, problem: str) -> tuple[int, str, str]:
    """Line, field and words for an identity mapping's error, which names a value but no place."""
    problem = " ".join(problem.split())
    for rule in _rules(text):
        if (match := rule.get("match")) and match in problem:
            return line_with(text, json.dumps(match)), "match", problem
    for field in ("DATA_TYPE", "match", "output", "source", "mappings"):
        if field in problem:
            return line_with(text, f'"{field}"'), field, problem
    return 1, "", problem or "is no identity mapping"


def _loose(name: str, text: str) -> Iterator[Finding]:
    for rule in _rules(text):
        match = str(rule.get("match", ""))
        at = line_with(text, json.dumps(match))
        if re.search(r"@.*(?<!\\)\.(?![*?])", match) and not rule.get("literal"):
            problem = f"{match}: a '.' stands for any character, so other domains fit too"
            yield Finding(name, at, "match", problem, "write '\\\\.' for it")
        if match in (".*", "(.*)"):
            yield Finding(name, at, "match", f"{match}: everybody fits", "name a domain: (.*)@example\\\\.edu")


def _rules(text: str) -> list[dict[str, Any]]:
    """The rules of an identity mapping, whatever else is wrong with it."""
    tree = json.loads(text)
    mappings = [one for one in tree if isinstance(one, dict)] if isinstance(tree, list) else []
    return [rule for one in mappings for rule in one.get("mappings", []) if isinstance(rule, dict)]


def _person(identity: str) -> dict[str, str]:
    uuid = "1c6dbe57-4a3e-44e5-826e-0280003585ae"
    return {
        "id": uuid,
        "sub": uuid,
        "username": identity,
        "name": identity,
        "email": identity,
        "organization": "",
        "status": "used",
        "identity_provider": uuid,
    }

"""`config.yaml`, the identity mapping, the user environment and the systemd unit: what the endpoint itself reads."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from endpoints.functions import Functions
from endpoints.mistakes import EndpointFilesError
from endpoints.settings import IdentityMapping, Settings, Systemd
from endpoints.site import Site

IDENTITY_MAPPING = "identity_mapping.json"
_HEAD = "# Written by `weft endpoints render`, which writes it anew: change its settings, not this file.\n"


def core_config(name: str, site: Site, settings: Settings, functions: Functions | None, folder: str) -> str:
    """`config.yaml`: without an engine, which in version 4 is the template's. Raises EndpointFilesError."""
    _check_assurance(settings)
    config: dict[str, Any] = {"display_name": settings.display_name or name}
    if (port := settings.amqp_port or site.amqp_port) is not None:
        config["amqp_port"] = port  # else the one that the service tells
    config["heartbeat_period"] = settings.heartbeat_period
    optional: dict[str, Any] = {
        "email": settings.email,
        "public": settings.public,
        "debug": settings.debug,
        "admins": list(settings.admins),
        "subscription_id": settings.subscription_id,
        "authentication_policy": settings.authentication_policy,
        "high_assurance": settings.high_assurance,
        "audit_log_path": settings.audit_log,
    }
    config.update({key: value for key, value in optional.items() if value})
    if settings.identity_mapping is not None:
        if settings.email is None:
            raise EndpointFilesError(
                "identity_mapping makes a multi-user endpoint, which its agent starts only with a contact; set email."
            )
        config["identity_mapping_config_path"] = f"{folder}/{IDENTITY_MAPPING}"
    if settings.pam_service is not None:
        config["pam"] = {"enable": True, "service_name": settings.pam_service}
    return _HEAD + _yaml(config) + _allowed(settings, functions)


def user_environment(site: Site) -> str:
    """`user_environment.yaml`: the variables of each user endpoint, on the machine where the agent runs."""
    return _HEAD + (_yaml(dict(site.endpoint_environment)) if site.endpoint_environment else "")


def identity_mapping(mapping: IdentityMapping) -> str:
    """Globus's identity mapping. Raises EndpointFilesError if it maps nobody."""
    rules = [
        {"source": "{username}" if "@" in identity else "{id}", "match": _literal(identity), "output": user}
        for identity, user in sorted(mapping.users.items())
    ]
    rules += [
        {"source": "{username}", "match": "(.*)@" + _literal(domain), "output": "{0}"} for domain in mapping.domains
    ]
    if not rules:
        raise EndpointFilesError("identity_mapping maps nobody; give it domains, or users {identity: local user}.")
    if "root" in mapping.users.values():
        raise EndpointFilesError("identity_mapping makes somebody root; give a local user without such rights.")
    document = [{"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": rules}]
    return json.dumps(document, indent=2) + "\n"


def unit_name(folder: str) -> str:
    """The unit's file, by the name that `globus-compute-endpoint enable-on-boot` would give it."""
    return f"globus-compute-endpoint-{folder.rpartition('/')[2]}.service"


def unit(systemd: Systemd, folder: str) -> str:
    """The unit that starts the endpoint on boot, whom the agent knows by its folder. Raises EndpointFilesError."""
    parent, _, name = folder.rpartition("/")
    for text in (name, parent, systemd.user, systemd.program, systemd.environment_file or ""):
        if re.search(r"[\s\"'\\]", text):
            raise EndpointFilesError(f"systemd: {text!r} has blanks or quotes, which a unit cannot hold.")
    lines = [
        "[Unit]",
        f'Description=Globus Compute Endpoint "{name}"',
        "Wants=network-online.target",
        "After=network-online.target",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        f"Environment=GLOBUS_COMPUTE_USER_DIR={_percent(parent)}",
    ]
    if systemd.environment_file is not None:
        lines.append(f"EnvironmentFile={_percent(systemd.environment_file)}")
    lines += [
        f"ExecStart={_percent(systemd.program)} start {name}",
        f"User={systemd.user}",
        "Type=simple",
        "Restart=always",
        "RestartSec=5",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _allowed(settings: Settings, functions: Functions | None) -> str:
    if settings.any_function:
        if settings.function_users:
            raise EndpointFilesError("any_function and function_users contradict each other; give one.")
        return ""
    if settings.function_users:  # the template's list counts only where this file has none
        return ""
    if functions is None:
        raise EndpointFilesError(
            "An endpoint should run Weft's functions alone: give --functions functions.yaml, which 'weft functions "
            "register' writes, or let it run anything with --set any_function=true."
        )
    listed = functions.uuids(settings.allowed, settings.endpoint_uuid)
    return "allowed_functions:\n" + "".join(f"- {uuid} # {name}\n" for uuid, name in listed)


def _check_assurance(settings: Settings) -> None:
    if settings.audit_log is not None and not settings.high_assurance:
        raise EndpointFilesError("audit_log works at high-assurance endpoints alone; set high_assurance=true too.")
    if settings.high_assurance and not (settings.subscription_id and settings.authentication_policy):
        raise EndpointFilesError(
            "A high-assurance endpoint needs subscription_id and authentication_policy, both of high assurance."
        )
    if settings.admins and not settings.subscription_id:
        raise EndpointFilesError("admins works with a Globus subscription alone; set subscription_id too.")


def _yaml(tree: dict[str, Any]) -> str:
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


def _literal(text: str) -> str:
    """A text as a pattern that matches it alone. Globus's patterns know fewer special characters than Python's, and
    refuse the escape of any other.
    """
    return re.sub(r"([.?*|()\\])", r"\\\1", text)


def _percent(text: str) -> str:
    return text.replace("%", "%%")

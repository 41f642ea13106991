"""Keys that exist from the start: each has a file, and the file decides which key it is."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from dataclasses import replace
from pathlib import Path

from services.auth.config import BootstrapKey
from services.auth.keys import Key, digest, identity_of, new_key, split
from services.auth.store import KeyStore
from services.core.errors import Reason, ServiceError
from services.core.principal import Permissions, Principal, Role


async def ensure_keys(wanted: tuple[BootstrapKey, ...], store: KeyStore, home: Path) -> None:
    """Makes what is missing, and gives each key the roles and permissions that the configuration says.

    Raises ARGUMENT_INVALID for a role that does not exist, or a file that holds no key.
    """
    for entry in wanted:
        credential = await asyncio.to_thread(_read_or_make, home / entry.file)
        parts = split(credential)
        if parts is None:
            message = f"{home / entry.file} does not hold a key; delete it, and a new one is made."
            raise ServiceError(Reason.ARGUMENT_INVALID, message, param="auth.bootstrap_keys")
        identity, secret = parts
        known = await store.find(identity)
        principal = _principal(entry, identity)
        name = entry.display_name or f"from {entry.file}"
        if known is not None:
            key = replace(known, digest=digest(secret), principal=principal, display_name=name)
        else:
            key = Key(identity, digest(secret), principal, name, time.time())
        if key != known:
            await store.put(key)


def _principal(entry: BootstrapKey, identity: str) -> Principal:
    try:
        roles = frozenset(Role[role.upper()] for role in entry.roles)
    except KeyError as error:
        known = ", ".join(role.name.lower() for role in Role)
        message = f"There is no role {error.args[0].lower()!r} in auth.bootstrap_keys; the roles are {known}."
        raise ServiceError(Reason.ARGUMENT_INVALID, message, param="auth.bootstrap_keys") from error
    permissions = Permissions(entry.allow_models, entry.deny_models, entry.allow_endpoints, entry.allow_operations)
    return Principal(entry.principal, roles, permissions, identity_of(identity, entry.principal, entry.groups))


def _read_or_make(file: Path) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        pass
    # Not named by the pid: in a container it is the same each time, and what a crash left would end every start.
    fresh = file.with_name(f"{file.name}.{secrets.token_hex(8)}.new")
    descriptor = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(new_key()[0] + "\n")
    try:
        # A link, unlike a rename, fails if another auth was faster, whose key then counts.
        os.link(fresh, file)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
    return file.read_text().strip()

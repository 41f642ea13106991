"""The emulated hosted service as a process of the run, and how clients find it."""

from __future__ import annotations

import sys
import uuid
from dataclasses import dataclass
from typing import Any

import requests

from tests.globus.rabbitmq import RabbitMQ
from tests.globus.run import Run
from tests.testing.processes import HeldPort, Part
from tests.vllm.processes import Deadline


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody whom the service knows. `environ` makes the SDK and the agent be that one."""

    id: str
    secret: str
    username: str

    @property
    def environ(self) -> dict[str, str]:
        """The credentials, where the SDK looks for them."""
        return {"GLOBUS_COMPUTE_CLIENT_ID": self.id, "GLOBUS_COMPUTE_CLIENT_SECRET": self.secret}


class Hosted:
    """The emulated service; `tests/globus/service/README.md` says what it does and what it invents."""

    def __init__(self, run: Run, rabbitmq: RabbitMQ) -> None:
        self._port = HeldPort()
        self.url = f"http://127.0.0.1:{self._port.port}"
        command = [sys.executable, "-m", "tests.globus.service", "--port", str(self._port.port)]
        command += ["--amqp", rabbitmq.url, "--state", str(run.folder / "service.db")]
        self.part: Part = run.part("service", command, announces=True)

    @property
    def environ(self) -> dict[str, str]:
        """What points the unchanged SDK and agent at it.

        The SDK's environment `local` is http://localhost:5000 and nothing else. Named as a proxy for HTTP, the service
        gets what is meant for that address, on any port.
        """
        return {
            "GLOBUS_SDK_ENVIRONMENT": "local",
            "GLOBUS_SDK_SERVICE_URL_AUTH": f"{self.url}/",
            "http_proxy": self.url,
            "no_proxy": "127.0.0.1",
        }

    def start(self) -> None:
        """Starts it, and returns when it answers. RabbitMQ must be there."""
        self.part.launch()
        self.part.wait_ready()

    def stop(self) -> None:
        """Stops it, as if it were down: RabbitMQ stays, and so does all that it knows."""
        self.part.clear_away()

    def identity(self, username: str) -> Identity:
        """Makes the service know somebody new."""
        made = Identity(str(uuid.uuid4()), uuid.uuid4().hex, username)
        record = {"secret": made.secret, "username": username, "name": username.partition("@")[0], "email": username}
        self._ask("PUT", f"clients/{made.id}", record)
        return made

    def expire_tokens(self, identity: Identity) -> None:
        """Makes all tokens of somebody worthless; new ones can be had."""
        self._ask("POST", f"clients/{identity.id}/expire")

    def fail(self, **fault: Any) -> None:
        """Has requests fail; the fields are those of `service.faults.Fault`."""
        self._ask("POST", "faults", fault)

    def set(self, **settings: Any) -> None:
        """Changes settings; the fields are those of `service.faults.Settings`, absent ones get their defaults."""
        self._ask("PUT", "settings", settings)

    def be_well(self) -> None:
        """Takes all faults and settings back."""
        self._ask("DELETE", "faults")

    def tasks(self, function: str | None = None) -> list[dict[str, Any]]:
        """The tasks that were submitted, oldest first; those of one function, by its name or its UUID."""
        told: list[dict[str, Any]] = self._ask("GET", "tasks")
        return [task for task in told if function in (None, task["function"], task["function_name"])]

    def until_over(self, *tasks: str, seconds: float = 180) -> None:
        """Waits until tasks have results, good or bad."""
        for _ in Deadline(seconds, f"tasks {tasks} are over"):
            if all(task["completed"] for task in self.tasks() if task["id"] in tasks):
                return

    def online(self, endpoint: str) -> bool:
        """Whether the heartbeats of an endpoint, or of a user endpoint, come."""
        return any(each["id"] == endpoint and each["online"] for each in self._ask("GET", "endpoints"))

    def redeliver(self, task: str) -> None:
        """Gives a task to its endpoint once more."""
        self._ask("POST", f"tasks/{task}/redeliver")

    def statistics(self) -> dict[str, dict[str, int]]:
        """How many `requests` came for each route, `tasks` for each function's name and `user_endpoints` for each
        endpoint.
        """
        told: dict[str, dict[str, int]] = self._ask("GET", "statistics")
        return told

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = requests.request(method, f"{self.url}/_emulator/{path}", json=body, timeout=60)
        assert answer.ok, answer.text
        return answer.json()

"""Why a call that waited is given up: one clear sentence, with the remedy; pure."""

from __future__ import annotations

from collections.abc import Sequence

from services.core.errors import Reason, ServiceError
from services.router.cold import Outlook
from services.router.plan import FULL, Plan
from services.router.targets import Launchable


def closed(planned: Plan, launchable: Sequence[Launchable]) -> str:
    """Why waiting is of no use, if so: whatever could serve the call is closed by its operators."""
    if any(not one.closed for one in launchable) or planned.candidates:
        return ""
    if not planned.unfit and launchable:
        return launchable[0].closed
    return planned.closed


def crowded(waiting: int) -> ServiceError:
    """As many calls wait as may, or those that wait hold as many bytes."""
    message = f"{waiting} calls wait for a worker at this router, and it takes no more of them; try again shortly."
    return ServiceError(Reason.OVERLOADED, message, retry_after=5.0)


def not_served(model: str, planned: Plan, outlook: Outlook | None) -> ServiceError:
    """No server was found in time. `outlook` is what is known of the starts of workers, None where none are started."""
    if FULL in [reason for _, reason in planned.left_out]:
        message = f"Every worker of '{model}' has as many calls as it takes; try again shortly."
        return ServiceError(Reason.OVERLOADED, message, retry_after=1.0)
    if outlook is None:
        message = f"No worker serves '{model}' at present; try again shortly."
        return ServiceError(Reason.NO_WORKER, message, retry_after=5.0)
    seconds = max(1, round(outlook.retry_after))
    message = f"No worker serves '{model}' yet: {outlook.detail}; try again in {seconds} s."
    reason = Reason.MODEL_STARTING if outlook.under_way else Reason.NO_WORKER
    return ServiceError(reason, message, retry_after=outlook.retry_after)

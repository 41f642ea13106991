"""What can go wrong, and what to do about it: python examples/errors.py"""

import os

from weft.client import Client, InvalidRequest, NotAllowed, RateLimited, Retry, TimedOut, WeftError

MODEL = os.environ.get("WEFT_MODEL", "sim-model")


def ask(client: Client, model: str, question: str, max_tokens: int = 8) -> str:
    """What came of a call, in words."""
    try:
        return client.chat(model, question, max_tokens=max_tokens).choices[0].message.text
    except InvalidRequest as error:
        return f"wrong request, field {error.field or 'unknown'}: {error.message}"
    except NotAllowed as error:
        return f"not allowed: {error.message}"
    except RateLimited as error:
        limits = ", ".join(f"{limit.subject}: {limit.description}" for limit in error.limits)
        return f"too much, come again in {error.retry_after} s ({limits})"
    except TimedOut as error:
        return f"too slow: {error.message}"
    except WeftError as error:  # the base of them all
        return f"{error.reason}: {error.message} Tell your administrator the request's id, {error.request_id}."


# What nobody has begun is tried again: six times in all here, for half a minute at most.
with Client(retry=Retry(attempts=6, first_wait=0.5), timeout=30) as client:
    print("good:", ask(client, MODEL, "Hello"))
    print("no such model:", ask(client, "no-such-model", "Hello"))
    print("no room for an answer:", ask(client, MODEL, "Hello", max_tokens=-1))

with Client(credential="not-a-key", retry=None) as client:
    print("no such key:", ask(client, MODEL, "Hello"))

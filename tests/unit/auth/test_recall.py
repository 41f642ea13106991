"""What is remembered of tokens: for how long, how much, and what an outage does to it."""

import asyncio
from collections import Counter

import pytest

from services.auth.recall import Identified, Memory, Recall
from services.core.errors import Reason, ServiceError
from services.core.principal import Principal


class Issuer:
    """Answers about tokens as the test says, and counts the questions."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: Counter[str] = Counter()
        self.lasts = 3600.0
        self.error: ServiceError | None = None
        self.open = asyncio.Event()
        self.open.set()

    async def ask(self, token: str) -> Identified:
        self.asked[token] += 1
        error, until = self.error, self.now + self.lasts
        await self.open.wait()
        if error is not None:
            raise error
        return Identified(Principal(f"users/{token}"), until)

    def clock(self) -> float:
        return self.now

    def recall(self, **memory: float) -> Recall:
        return Recall(self.ask, Memory(**memory), clock=self.clock)  # type: ignore[arg-type]


async def reason(recall: Recall, token: str) -> Reason:
    with pytest.raises(ServiceError) as caught:
        await recall.look_up(token)
    return caught.value.reason


async def test_a_hundred_callers_are_one_question() -> None:
    issuer = Issuer()
    recall = issuer.recall()
    issuer.open.clear()
    calls = [asyncio.ensure_future(recall.look_up("ada")) for _ in range(100)]
    await asyncio.sleep(0)
    calls[0].cancel()
    issuer.open.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert {answer.principal.name for answer in answers[1:] if isinstance(answer, Identified)} == {"users/ada"}
    assert issuer.asked == {"ada": 1}


async def test_a_hundred_callers_hear_one_refusal() -> None:
    issuer = Issuer()
    recall = issuer.recall()
    issuer.error = ServiceError(Reason.CREDENTIAL_INVALID, "no")
    answers = await asyncio.gather(*(reason(recall, "eve") for _ in range(100)))
    assert set(answers) == {Reason.CREDENTIAL_INVALID}
    assert issuer.asked == {"eve": 1}


async def test_life_times() -> None:
    issuer = Issuer()
    recall = issuer.recall()
    assert (await recall.look_up("ada")).until == 1600.0
    issuer.lasts = 120.0
    assert (await recall.look_up("bob")).until == 1120.0
    issuer.now += 119
    await recall.look_up("bob")
    assert issuer.asked == {"ada": 1, "bob": 1}
    issuer.now += 1
    await recall.look_up("bob")
    await recall.look_up("ada")
    assert issuer.asked == {"ada": 1, "bob": 2}
    issuer.now += 480
    await recall.look_up("ada")
    assert issuer.asked["ada"] == 2


async def test_a_refusal_is_remembered_for_a_minute() -> None:
    issuer = Issuer()
    recall = issuer.recall()
    issuer.error = ServiceError(Reason.CREDENTIAL_EXPIRED)
    assert await reason(recall, "ada") is Reason.CREDENTIAL_EXPIRED
    issuer.error = None
    issuer.now += 59
    assert await reason(recall, "ada") is Reason.CREDENTIAL_EXPIRED
    issuer.now += 1
    assert (await recall.look_up("ada")).principal.name == "users/ada"


async def test_a_refusal_that_may_end_soon_is_remembered_no_longer() -> None:
    issuer = Issuer()
    recall = issuer.recall()
    issuer.error = ServiceError(Reason.CREDENTIAL_INVALID, retry_after=10.0)
    await reason(recall, "ada")
    issuer.error = None
    issuer.now += 10
    await recall.look_up("ada")


async def test_an_outage_is_not_a_refusal() -> None:
    issuer = Issuer()
    recall = issuer.recall()
    await recall.look_up("ada")
    issuer.error = ServiceError(Reason.AUTH_UNAVAILABLE)
    assert (await recall.look_up("ada")).principal.name == "users/ada"
    assert await reason(recall, "bob") is Reason.AUTH_UNAVAILABLE
    issuer.now += 600
    assert await reason(recall, "ada") is Reason.AUTH_UNAVAILABLE
    issuer.error = None
    await recall.look_up("ada")
    await recall.look_up("bob")
    assert issuer.asked == {"ada": 3, "bob": 2}


async def test_memory_is_bounded_and_refusals_push_out_nobody() -> None:
    issuer = Issuer()
    recall = issuer.recall(capacity=3, refused_capacity=2)
    for name in ("a", "b", "c"):
        await recall.look_up(name)
    issuer.error = ServiceError(Reason.CREDENTIAL_INVALID)
    for number in range(50):
        await reason(recall, f"wrong-{number}")
    issuer.error = None
    for name in ("a", "b", "c"):
        await recall.look_up(name)
    assert all(issuer.asked[name] == 1 for name in ("a", "b", "c"))
    # The one that was not used for longest goes first.
    await recall.look_up("d")
    await recall.look_up("b")
    await recall.look_up("a")
    assert (issuer.asked["a"], issuer.asked["b"]) == (2, 1)
    assert issuer.asked["wrong-0"] == 1
    await recall.look_up("wrong-0")
    assert issuer.asked["wrong-0"] == 2


async def test_so_many_questions_at_once_and_no_more() -> None:
    issuer = Issuer()
    recall = issuer.recall(waiting=2)
    issuer.open.clear()
    waiting = [asyncio.ensure_future(recall.look_up(name)) for name in ("a", "b")]
    await asyncio.sleep(0)
    assert await reason(recall, "c") is Reason.AUTH_UNAVAILABLE
    issuer.open.set()
    await asyncio.gather(*waiting)
    await recall.look_up("c")


async def test_its_end_ends_the_questions() -> None:
    issuer = Issuer()
    recall = issuer.recall()
    issuer.open.clear()
    waiting = asyncio.ensure_future(recall.look_up("ada"))
    await asyncio.sleep(0)
    await recall.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_no_token_is_kept() -> None:
    issuer = Issuer()
    recall = issuer.recall()
    await recall.look_up("AgSecretToken")
    issuer.error = ServiceError(Reason.CREDENTIAL_INVALID)
    await reason(recall, "AgWrongToken")
    issuer.error = None
    kept = repr(vars(recall))
    assert "AgSecretToken" not in kept.replace("users/AgSecretToken", "")
    assert "AgWrongToken" not in kept

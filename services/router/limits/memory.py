"""Limits of a router that is alone: all is counted in its own memory."""

from __future__ import annotations

from services.router.limits.call_meters import CallMeter
from services.router.limits.claims import Claim, Kind, Rule, is_shared, rules_of_claims
from services.router.limits.counters import Counter
from services.router.limits.meters import Meter, WindowMeter
from services.router.limits.windows import Window


class MeterCounter:
    """A principal's hold on a meter in memory; see `Counter`."""

    __slots__ = ("_limit", "_meter", "_principal", "counts_calls", "counts_tokens", "rule", "subject")

    def __init__(self, subject: str, rule: Rule, principal: str | None, meter: Meter) -> None:
        self.subject = subject
        self.rule = rule
        self.counts_tokens = rule.counts_tokens
        self.counts_calls = rule.kind is Kind.CALLS
        self._limit = rule.limit
        self._principal = principal
        self._meter = meter
        meter.users += 1

    def take(self, amount: int, now: float) -> int:
        """See `Counter.take`."""
        return self._meter.take(self._principal, amount, self._limit, now)

    def give_back(self, slot: int, amount: int, now: float) -> None:
        """See `Counter.give_back`."""
        self._meter.add(self._principal, slot, -amount, now)

    def owe(self, amount: int, now: float) -> None:
        """See `Counter.owe`."""
        self._meter.charge(self._principal, amount, now)

    def room(self, now: float) -> int:
        """See `Counter.room`."""
        return self._meter.room(self._principal, self._limit, now)

    def wait(self, amount: int, now: float) -> float:
        """See `Counter.wait`."""
        return self._meter.wait(self._principal, amount, self._limit, now)

    def reset(self, now: float) -> float:
        """See `Counter.reset`."""
        return self._meter.reset(now)

    def let_go(self) -> None:
        """See `Counter.let_go`."""
        self._meter.users -= 1


class OwnCounter(MeterCounter):
    """The same, of a window that nobody else takes from: without the way through its meter, which is most calls'."""

    __slots__ = ("_window",)

    def __init__(self, subject: str, rule: Rule, meter: Meter, window: Window) -> None:
        super().__init__(subject, rule, None, meter)
        self._window = window

    def take(self, amount: int, now: float) -> int:
        """See `Counter.take`."""
        return self._window.take(amount, self._limit, now)

    def give_back(self, slot: int, amount: int, now: float) -> None:
        """See `Counter.give_back`."""
        self._window.turn(now)
        self._window.add(slot, -amount)


class Books:
    """The meters that are in use, by subject and rule."""

    def __init__(self, ahead: float = 0.0) -> None:
        self._ahead = ahead
        self._meters: dict[tuple[str, str], Meter] = {}

    def __len__(self) -> int:
        return len(self._meters)

    def meter(self, subject: str, rule: Rule) -> Meter:
        """The meter of a rule, made if need be. Limits may differ from call to call, what has been counted stays."""
        key = (subject, rule.key)
        meter = self._meters.get(key)
        if meter is None:
            meter = CallMeter(rule) if rule.kind is Kind.CALLS else WindowMeter(rule, self._ahead)
            self._meters[key] = meter
        return meter

    def counters(self, claims: tuple[Claim, ...], principal: str) -> tuple[Counter, ...]:
        """What a call with these claims takes from."""
        return tuple(self._counter(subject, rule, principal) for subject, rule in rules_of_claims(claims))

    def _counter(self, subject: str, rule: Rule, principal: str) -> Counter:
        meter = self.meter(subject, rule)
        if is_shared(subject, principal):
            return MeterCounter(subject, rule, principal, meter)
        if isinstance(meter, WindowMeter):
            return OwnCounter(subject, rule, meter, meter.window)
        return MeterCounter(subject, rule, None, meter)

    def sweep(self, now: float) -> None:
        """Forgets the meters that nobody holds and that hold nothing."""
        for key, meter in list(self._meters.items()):
            if not meter.users and not meter.used(now):
                del self._meters[key]

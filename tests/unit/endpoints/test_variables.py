"""What a start may say: the schema's patterns."""

import re

import pytest

from endpoints.mistakes import EndpointFilesError
from endpoints.settings import Settings
from endpoints.site import Choice, Site, Walltime
from endpoints.variables import schema, seconds, times_up_to

SETTINGS = Settings()


def site(**changes: object) -> Site:
    return Site(about="", scheduler="slurm", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "maximum", ["00:30:00", "01:59:59", "06:00:00", "24:00:00", "99:59:59", "100:00:00", "168:10:05"]
)
def test_times_up_to_a_maximum_and_no_further(maximum: str) -> None:
    pattern = re.compile(times_up_to(maximum))
    limit = seconds(maximum)
    near = {limit + step for step in (-3600, -61, -60, -1, 0, 1, 60, 61, 3600, 36000, 360000)}
    for time in sorted({0, 1, 59, 60, 3599, 3600, 35999, 36000, 86400, *near}):
        if time < 0:
            continue
        text = f"{time // 3600:02d}:{time // 60 % 60:02d}:{time % 60:02d}"
        assert bool(pattern.fullmatch(text)) == (time <= limit), text


def test_a_line_break_behind_a_value_is_refused() -> None:
    properties = schema(site(account=Choice()), SETTINGS)["properties"]
    for name, good in (("account", "abc-1"), ("weft_endpoint", "clusters/c/endpoints/e"), ("walltime", "01:00:00")):
        pattern = properties[name]["pattern"]
        assert re.search(pattern, good)
        for bad in (f"{good}\n", f"{good} b", f"{good};b", f"x\n{good}", ""):
            assert not re.search(pattern, bad), (name, bad)


def test_no_time_is_refused_because_slurm_takes_it_for_no_limit() -> None:
    for maximum, none in (("24:00:00", "00:00:00"), ("100:00:00", "000:00:00"), ("100:00:00", "00:00:00")):
        pattern = schema(site(walltime=Walltime(maximum=maximum)), SETTINGS)["properties"]["walltime"]["pattern"]
        assert not re.search(pattern, none)
        assert re.search(pattern, "00:00:01")
        assert re.search(pattern, "10:00:00")


def test_allowed_values_are_the_only_ones() -> None:
    told = schema(site(account=Choice(allowed=("a", "b")), queue=Choice(default="gpu")), SETTINGS)
    assert told["properties"]["account"] == {"type": "string", "enum": ["a", "b"]}
    assert "account" in told["required"]
    assert "partition" not in told["required"]
    assert told["additionalProperties"] is False


def test_the_slot_has_bounds() -> None:
    slot = schema(site(), Settings(max_slots=4))["properties"]["weft_slot"]
    assert (slot["type"], slot["minimum"], slot["maximum"]) == ("integer", 0, 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"walltime": Walltime(default="48:00:00", maximum="24:00:00")}, "above site.walltime.maximum"),
        ({"walltime": Walltime(default="6h")}, "looks like 06:00:00"),
        ({"walltime": Walltime(default="00:00:00")}, "no limit at all"),
        ({"account": Choice(default="a b")}, "no single word"),
        ({"queue": Choice(default="c", allowed=("a", "b"))}, "not among the allowed"),
    ],
)
def test_what_a_site_may_not_say(changes: dict[str, object], said: str) -> None:
    with pytest.raises(EndpointFilesError, match=said):
        schema(site(**changes), SETTINGS)

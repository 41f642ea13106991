"""The section `router.limits`."""

import logging
from pathlib import Path

import pytest

from services.core.errors import Reason, ServiceError
from services.core.quota import Quota
from services.router.config import RouterConfig
from services.router.limits.claims import Claim
from services.router.limits.config import LimitsConfig
from services.router.limits.making import make_limiter
from services.runtime.config import Config, ConfigError, load_config


def load(tmp_path: Path, **settings: str) -> Config:
    variables = {f"WEFT_ROUTER__LIMITS__{key.upper()}": value for key, value in settings.items()}
    return load_config({"router": RouterConfig}, {"WEFT_HOME": str(tmp_path), **variables})


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"store_url": "http://store"}, "must begin with redis://"),
        ({"store_url": "redis://"}, "names no host"),
        ({"store_url": "redis://:hidden@store"}, "must hold no password"),
        ({"routers": "0"}, "must be at least 1"),
        ({"when_store_is_away": "panic"}, "invalid enum value"),
    ],
)
def test_what_would_fail_later_is_refused_at_once(tmp_path: Path, settings: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        load(tmp_path, **settings)
    assert "hidden" not in str(caught.value)


async def test_a_store_needs_its_password(tmp_path: Path) -> None:
    config = LimitsConfig(store_url="redis://store", store_password_file="absent")
    with pytest.raises(ServiceError) as caught:
        make_limiter(config, tmp_path, "r")
    assert (caught.value.reason, caught.value.param) == (Reason.ARGUMENT_INVALID, "router.limits.store_password_file")


async def test_a_store_that_is_away_at_start_does_not_keep_a_router_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "password").write_text("hidden\n")
    url = f"unix://{tmp_path}/absent"
    with caplog.at_level(logging.DEBUG):
        limiter = make_limiter(LimitsConfig(store_url=url, store_password_file="password", routers=2), tmp_path, "r")
        limiter.start()
        claims = (Claim("users/a", Quota(tokens_per_minute=1000)),)
        admission = await limiter.admit_later(claims, principal="users/a", tokens=500)
        admission.settle(500)
        with pytest.raises(ServiceError):
            await limiter.admit_later(claims, principal="users/a", tokens=1)
        await limiter.close()
    assert "the limits' store is away" in caplog.text
    assert "hidden" not in caplog.text

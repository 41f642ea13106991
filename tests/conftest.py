"""What every test may use."""

import faulthandler

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from hypothesis import settings

pytest_plugins = ["tests.testing.parts", "tests.testing.postgresql", "tests.testing.mesh", "tests.testing.redis"]

# No example fails for the time that it takes: what else the machine does is not what is tested.
settings.register_profile("weft", deadline=None)
settings.load_profile("weft")


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Goes on watching a test that has failed: pytest does not, and its teardown may hang as well."""
    if isinstance(node, pytest.Item):
        seconds = float(node.config.getini("faulthandler_timeout"))
        faulthandler.dump_traceback_later(seconds, exit=True, file=node.config.stash[fault_handler_stderr_fd_key])

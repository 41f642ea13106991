"""What every test may use."""

from hypothesis import settings

pytest_plugins = ["tests.testing.parts", "tests.testing.postgresql", "tests.testing.mesh", "tests.testing.redis"]

# No example fails for the time that it takes: what else the machine does is not what is tested.
settings.register_profile("weft", deadline=None)
settings.load_profile("weft")

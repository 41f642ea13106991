"""What every test may use."""

pytest_plugins = ["tests.testing.parts", "tests.testing.postgresql", "tests.testing.mesh"]

"""A simulated vLLM: its HTTP routes and its timing, without a model. For laptops, tests and benchmarks."""

"""The process beside one vLLM: it dials routers, and answers their calls. Needs the base dependencies alone."""

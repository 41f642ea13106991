"""Any OpenAI-compatible HTTP server as an `Inference`: a worker's vLLM, and the router's HTTP endpoints."""

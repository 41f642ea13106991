"""The typed inference API and OpenAI's JSON: the one place where either becomes the other. Pure."""

"""Reads the fixtures of FIRST, the gateway whose users Weft also serves, as resources of Weft."""

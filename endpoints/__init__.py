"""Globus Compute endpoint directories: sites and models as data, rendered and checked.

Nothing is imported here: `endpoints.checking` runs under the Python of the endpoint agent, which has none of Weft's
dependencies.
"""

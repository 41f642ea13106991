"""Checks an endpoint directory with the agent's own loaders. Runs under the agent's Python: the standard library, that
package and what it brings (PyYAML, jsonschema) are all that is here imported.
"""

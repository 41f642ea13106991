"""Who may do what, as a table, and what is needed to try all of it against a mesh that runs.

`table` is the expectation, written for auditors: docs/access.md is made from it. `callers` makes every kind of caller,
`requests` a minimal valid request for every RPC and route, and `outcomes` tells what came back in the table's words.
"""

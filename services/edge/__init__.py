"""An Envoy in front of the mesh: its whole configuration as plain data, made from weft.yaml, and how it is run."""

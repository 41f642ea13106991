"""How we speak with Globus Compute: credentials, the control of endpoints and functions, tasks."""

"""The launcher: keeps the number of workers that each endpoint is to have, by Globus Compute."""

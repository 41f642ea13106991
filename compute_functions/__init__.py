"""What a Globus Compute endpoint runs. Each function stands alone: it is sent to the endpoint by its text."""

"""What is wrong with a site, a model, a setting or a folder, told in one sentence with the remedy."""


class EndpointFilesError(Exception):
    """What was asked cannot be rendered or checked; the message names where, what, and what to do."""

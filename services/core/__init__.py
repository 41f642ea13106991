"""The domain: the inference protocol, errors, principals, names. Imports no transport."""

"""How much may be used: counted in sliding windows, by this router alone or by several with one store."""

"""How a process lives: configuration, logging, lifecycle."""

"""What a process tells of its calls: spans, to a collector and to files of its own."""

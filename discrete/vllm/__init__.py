"""What the two vLLM engines share: rows of their logs, spans, samples, and how they are read."""

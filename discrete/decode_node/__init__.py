"""The engine ``decode_node``: a compiled kernel on arrays that are its whole state."""

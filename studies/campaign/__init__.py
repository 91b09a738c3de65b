"""How far each method is from the engine, measured over scenarios drawn at random."""

"""How far off an answer is expected to be: features of a question, and what was learnt of them."""

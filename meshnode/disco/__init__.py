"""Path discovery between nodes, sans-IO: disco's messages, candidates, and the choice of a path."""

"""How noise is added to data, level by level, until nothing of them is left."""

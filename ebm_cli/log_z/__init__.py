"""log Z of a model: by enumeration, by transfer matrices, along an annealing path."""

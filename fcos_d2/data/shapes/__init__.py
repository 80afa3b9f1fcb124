"""The datasets `shapes_train` and `shapes_val`, which are drawn when they are first used."""

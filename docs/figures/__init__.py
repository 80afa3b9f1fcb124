"""The figures of algorithm.md; each module draws some of them with fcos_d2's own functions."""

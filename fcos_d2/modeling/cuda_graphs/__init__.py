"""
CUDA graphs: all kernels of a network are launched at once.

A GPU runs the kernels of a small batch faster than Python launches them. From the bottom up:

- ``recorder`` records kernels.
- ``recording`` records and replays a call with its backward pass.
- ``module_state`` and ``graph_cache`` find out when a recording can be used.
- ``module_calls`` and ``fcos_graphs`` apply this to single modules and to a whole FCOS.
"""

from .fcos_graphs import FCOSGraphs
from .graph_cache import GraphCache
from .module_calls import graph_calls
from .recorder import CudaRecorder

__all__ = ["CudaRecorder", "FCOSGraphs", "GraphCache", "graph_calls"]

"""A process group of two, for the tests that start two processes."""

from contextlib import contextmanager

import torch
from detectron2.utils import comm

from fcos_d2.engine.processes import leave_process_group


@contextmanager
def one_of_two(rank, folder):
    """Join a group of two processes on CPUs, with one thread each and a store in this folder."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    comm.create_local_process_group(2)
    yield
    leave_process_group()

"""What the two processes of a test have in common."""

from contextlib import contextmanager

import torch
from detectron2.utils import comm


@contextmanager
def one_of_two(rank, folder):
    """A group of two processes on CPUs, one thread each, that meet in a file of this folder."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    comm.create_local_process_group(2)
    yield
    comm.synchronize()
    torch.distributed.destroy_process_group()
    # detectron2 keeps the group for ever, and gloo may abort where one is freed as Python ends.
    comm._get_global_gloo_group.cache_clear()

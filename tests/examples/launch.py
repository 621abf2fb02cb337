"""Starts an example in two processes of the CPU, by `accelerate launch`."""

import os
import socket
import sys


# `accelerate launch --cpu --num_processes 2` starts a single process unless MPI is there; this starts two.
ENVIRONMENT = {
    "ACCELERATE_USE_CPU": "true",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(sys.path),
}


def two_processes() -> list[str]:
    """Arguments of Python that come before the script."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    options = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    return ["-m", "accelerate.commands.launch", *options, f"--main_process_port={port}"]

"""Ray, where it is used: a cluster of this machine's own or one that is there, and a worker's share of it."""

import logging
import math
import os

from langchain_saffron.errors import EngineFailedError
from langchain_saffron.extras import RAY

# bytes of Ray's object store on this machine: what goes through it is small, and it takes no less than some 75 MB
STORE = 80 * 2**20


def start_ray(address: str) -> None:
    """Start Ray, or join one.

    Args:
        address: `"local"` for one that ends with this process, or that of a cluster.

    Raises:
        EngineFailedError: It does not start.
        ExtraRequiredError: Ray is not installed.
    """
    ray = RAY.load("ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    own = {"include_dashboard": False, "object_store_memory": STORE} if address == "local" else {}
    try:
        ray.init(address=address, logging_level=logging.ERROR, **own)
    except Exception as error:
        raise EngineFailedError(f"Ray did not start at {address!r}: {error}") from error


def share(workers: int, device: str | None) -> dict[str, float]:
    """An even share of the cluster for each worker: by it Ray sets a worker's threads, and which GPUs it sees.

    Args:
        workers: How many there are.
        device: What they compute on, where that was said.
    """
    found = RAY.load("ray").cluster_resources()
    cpus, gpus = int(found.get("CPU", 1)), int(found.get("GPU", 0))
    each: dict[str, float] = {"num_cpus": cpus // workers or cpus / workers}
    if gpus and not (device or "").startswith("cpu"):
        # one of its own, or as many workers on each as have to be
        each["num_gpus"] = 1.0 if gpus >= workers else 1 / math.ceil(workers / gpus)
    return each

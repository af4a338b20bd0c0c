"""Ray, where it is used: a cluster of this machine's own or one that is there, and a worker's share of it."""

import logging
import math
import os
from pathlib import Path

from langchain_saffron.errors import EngineFailedError
from langchain_saffron.extras import RAY

logger = logging.getLogger(__name__)

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
    if own:
        _keep_token_private()
    try:
        ray.init(address=address, logging_level=logging.ERROR, **own)
    except Exception as error:
        raise EngineFailedError(f"Ray did not start at {address!r}: {error}") from error
    finally:
        if own:
            _keep_token_private()


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


def _keep_token_private() -> None:
    """Keep the token from other users, by which programs may join and command this user's Ray.

    Ray makes `~/.ray/auth_token` when it first starts, for everybody to read. A directory that is made before is closed
    from the beginning; one that is there already may hold other things, and only the token is closed.
    """
    directory = Path.home() / ".ray"
    token = directory / "auth_token"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        if token.exists() and token.stat().st_mode & 0o077:
            token.chmod(0o600)
    except OSError as error:
        logger.warning("%s may be read by others: %s", token, error)

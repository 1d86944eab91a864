"""Images in, batches out: sources, autoencoders, caches made once, and a loader whose order depends on nothing but the seed."""

from meanstep.program.data.autoencoders import Autoencoder, open_autoencoder
from meanstep.program.data.build import make
from meanstep.program.data.cache import Cache, check_fits, to_images
from meanstep.program.data.ensure import ensure
from meanstep.program.data.loader import Loader
from meanstep.program.data.manifest import Manifest
from meanstep.program.data.request import Plan, Request
from meanstep.program.data.sources import Source, open_source

__all__ = [
    "Autoencoder",
    "Cache",
    "Loader",
    "Manifest",
    "Plan",
    "Request",
    "Source",
    "check_fits",
    "ensure",
    "make",
    "open_autoencoder",
    "open_source",
    "to_images",
]

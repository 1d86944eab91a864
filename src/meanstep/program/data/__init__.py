"""Images in, batches out: sources, autoencoders, caches made once, and a loader whose order depends on nothing but the seed.

The public names load their modules when they are used, so that what is light stays light.
"""

from typing import TYPE_CHECKING

from meanstep.program.lazy import lazily

if TYPE_CHECKING:
    from meanstep.program.data.autoencoders import Autoencoder, open_autoencoder
    from meanstep.program.data.build import make
    from meanstep.program.data.cache import Cache, check_fits, to_images
    from meanstep.program.data.ensured import ensure
    from meanstep.program.data.loader import Loader
    from meanstep.program.data.manifest import Manifest
    from meanstep.program.data.opened import Opened
    from meanstep.program.data.request import Request
    from meanstep.program.data.sources import Source, open_source

__all__ = [
    "Autoencoder",
    "Cache",
    "Loader",
    "Manifest",
    "Opened",
    "Request",
    "Source",
    "check_fits",
    "ensure",
    "make",
    "open_autoencoder",
    "open_source",
    "to_images",
]
__getattr__ = lazily(
    __name__,
    {
        **dict.fromkeys(("Autoencoder", "open_autoencoder"), "autoencoders"),
        **dict.fromkeys(("Cache", "check_fits", "to_images"), "cache"),
        **dict.fromkeys(("Source", "open_source"), "sources"),
        "Loader": "loader",
        "Manifest": "manifest",
        "Opened": "opened",
        "Request": "request",
        "ensure": "ensured",
        "make": "build",
    },
)

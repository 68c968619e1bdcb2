"""Bundles on disk: what is loaded has been verified, file by file, and an engine is made from it for this machine."""

from monitor.registry.bundles import SHIPPED, Bundle, Convention, Head, load_bundle
from monitor.registry.engines import engine_file
from monitor.registry.signing import sign_bundle

__all__ = ["SHIPPED", "Bundle", "Convention", "Head", "engine_file", "load_bundle", "sign_bundle"]

"""The jobs of one shell: their numbers, and the specs that name them."""

from ipy_bgtasks.registry.registry import Registry

__all__ = ["Registry"]

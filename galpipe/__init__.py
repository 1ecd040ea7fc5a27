"""galpipe: from a galaxy archive to a published catalogue of morphological labels."""

__version__ = "0.1.0"

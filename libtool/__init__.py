"""libtool: librarians that move files between sites, prove that they arrived, and remember where the copies are."""

__version__ = "0.1.0"

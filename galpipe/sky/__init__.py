"""A simulated piece of the SDSS: galaxies of known form in frames of its layout."""

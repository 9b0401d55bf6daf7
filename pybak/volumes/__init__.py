"""The files that an archive is stored as: describing, finding, writing and probing them."""

"""The backup engine: plans, compresses, writes and reads ordinary archives. No Prefect here."""

__version__ = "0.1.0"

"""What a run can be told: one model a command."""

from pybak.options.backup import BackupOptions
from pybak.options.fields import FilterOptions
from pybak.options.prune import PruneOptions
from pybak.options.read import RestoreOptions, VerifyOptions

__all__ = ["BackupOptions", "FilterOptions", "PruneOptions", "RestoreOptions", "VerifyOptions"]

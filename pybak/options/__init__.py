"""What a run can be told: one model a command."""

from pybak.options.backup import BackupOptions, FilterOptions, RestoreOptions, VerifyOptions

__all__ = ["BackupOptions", "FilterOptions", "RestoreOptions", "VerifyOptions"]

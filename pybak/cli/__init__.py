"""The command line: what is typed becomes one checked request, and a report becomes text or JSON.

A command is made from its options model, so the model is the only place where an option is
described. Importing this is cheap; models and YAML are loaded when they are needed.
"""

from pybak.cli.commands import (
    BackupRequest,
    RestoreRequest,
    VerifyRequest,
    backup_command,
    restore_command,
    verify_command,
)
from pybak.cli.drill import DrillRequest, drill_command
from pybak.cli.mirror import MirrorRequest, mirror_command
from pybak.cli.output import View, binary_stdout, emit, print_error, run_guarded
from pybak.cli.passwords import Password, hand_over, warn_if_weak
from pybak.cli.prune import PruneRequest, prune_command
from pybak.cli.rebuild import RebuildRequest, rebuild_command
from pybak.cli.running import main
from pybak.cli.transfer import TransferRequest, transfer_command

__all__ = [
    "BackupRequest",
    "DrillRequest",
    "MirrorRequest",
    "Password",
    "PruneRequest",
    "RebuildRequest",
    "RestoreRequest",
    "TransferRequest",
    "VerifyRequest",
    "View",
    "backup_command",
    "binary_stdout",
    "drill_command",
    "emit",
    "hand_over",
    "main",
    "mirror_command",
    "print_error",
    "prune_command",
    "rebuild_command",
    "restore_command",
    "run_guarded",
    "transfer_command",
    "verify_command",
    "warn_if_weak",
]

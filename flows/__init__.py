"""What happens, in order: each module is a Prefect flow and a command."""

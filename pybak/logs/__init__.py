"""Runs' log lines, from where Prefect keeps them: its server, or its database without one."""

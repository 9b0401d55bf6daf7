"""What `pybak doctor` looks at. It changes nothing."""

"""The inbox: new files of a folder are compressed, stored, checked, and only then taken away."""

"""Who may do what: bearer tokens of a provider or of the built-in endpoint, and their scopes."""

"""Tell people and machines how a run ended: mail, webhook, dead-man's ping.

Nothing here ever changes how a run ends: a notice that can't be sent is a warning.
"""

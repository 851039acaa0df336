"""How setup.py builds the extension: what is on the machine, for which GPUs, and what ninja has to do."""

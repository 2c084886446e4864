"""Messaging patterns: thin compositions over the protocols of pylog.engine. Nothing is imported here."""

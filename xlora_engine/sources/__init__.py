"""Base models and adapters on disk or a hub; folders written whole or not at all."""

"""Celery, and nothing but Celery: hints that there is work, and workers that wait for them."""

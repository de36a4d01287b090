"""Celery, and nothing but Celery: wake-up messages that announce work, and the workers that wait for them."""

"""Whether, where and how an adapter's updates fit a base model."""

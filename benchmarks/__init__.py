"""Side by side: what an X-LoRA model costs over its base model, here and in other implementations."""

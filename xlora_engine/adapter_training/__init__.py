"""Training one LoRA adapter."""

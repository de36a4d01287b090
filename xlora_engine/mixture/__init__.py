"""X-LoRA itself: two passes and a scaling head as one module. Knows no file format and no decoding."""

"""The files of a saved X-LoRA model, the complete content of its folder.

xlora.json             format, configuration, experts with their digests, layer numbering, base model's shape
head.safetensors       the scaling head: layers.0.weight, layers.0.bias, …
probe.safetensors      the reload check: fixed token ids, and the logits the saved model gave for them
experts/<name>/        adapter_config.json, adapter_model.safetensors (PEFT's own format)
"""

from formats.peft import CONFIG_FILE, WEIGHTS_FILE

MANIFEST_FILE = "xlora.json"
HEAD_FILE = "head.safetensors"
RELOAD_CHECK_FILE = "probe.safetensors"
EXPERTS_FOLDER = "experts"

#: In the folder itself, beside the folder of experts.
TOP_FILES = (HEAD_FILE, RELOAD_CHECK_FILE, MANIFEST_FILE)
#: In the folder of each expert.
EXPERT_FILES = (CONFIG_FILE, WEIGHTS_FILE)

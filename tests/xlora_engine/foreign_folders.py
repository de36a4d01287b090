"""Folders of saved X-LoRA models as other implementations write them, made without the code under test."""

import json
import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from tests.xlora_engine.peft_reference import quiet_peft

#: Defaults of the original package's xLoRAConfig.
ORIGINAL_DEFAULTS: dict[str, Any] = {
    "enable_softmax": True,
    "enable_softmax_topk": False,
    "layerwise_scalings": False,
    "xlora_depth": 1,
    "xlora_size": 16,
    "enable_relu_and_dropout": True,
    "use_bias": True,
    "xlora_dropout_p": 0.2,
    "use_trainable_adapters": False,
    "softmax_temperature": 1.0,
    "top_k_lora": None,
    "scaling_pass_value": 0.0,
    "global_scaling_weight": 1.0,
}


class OriginalClassifier(nn.Module):
    """The original package's head: its names, its layers, ReLU and Dropout counted among them."""

    def __init__(self, config: Mapping[str, Any], *, outputs: int, seed: int = 0) -> None:
        super().__init__()
        widths = [config["hidden_size"], *[config["xlora_size"]] * (config["xlora_depth"] - 1)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.inner = nn.ModuleList()
            for d_in, d_out in pairwise(widths):
                self.inner.append(nn.Linear(d_in, d_out, bias=config["use_bias"]))
                if config["enable_relu_and_dropout"]:
                    self.inner.append(nn.ReLU())
                    self.inner.append(nn.Dropout(config["xlora_dropout_p"]))
            self.last = nn.Linear(widths[-1], outputs, bias=config["use_bias"])
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(4)  # gates far apart
        self.eval()


def original_folder(
    folder: Path,
    experts: Mapping[str, Path],
    *,
    layers: int,
    dtype: torch.dtype = torch.float32,
    adapters: Any = None,
    **fields: Any,
) -> tuple[OriginalClassifier, dict[str, Any]]:
    """Write one; gives the head whose values it holds, and the configuration with defaults filled in."""
    config = ORIGINAL_DEFAULTS | {"hidden_size": 32, "base_model_id": "owner/base"} | fields
    outputs = len(experts) * (layers if config["layerwise_scalings"] else 1)
    head = OriginalClassifier(config, outputs=outputs)
    head.to(dtype).to(torch.float32)
    folder.mkdir(parents=True)
    written = config | {"adapters": list(experts) if adapters is None else adapters}
    (folder / "xlora_config.json").write_text(json.dumps(written))
    tensors = {name: tensor.to(dtype) for name, tensor in head.state_dict().items()}
    save_file(tensors, folder / "xlora_classifier.safetensors")
    for name, expert in experts.items():
        shutil.copytree(expert, folder / name)
    return head, config


def peft_model(base: PreTrainedModel, folders: Sequence[Path], **fields: Any) -> nn.Module:
    """A live X-LoRA model of PEFT, its gates far apart."""
    base.config.use_cache = False
    adapters = {str(i): str(folder) for i, folder in enumerate(folders)}
    with quiet_peft(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = peft.XLoraConfig(
            task_type="CAUSAL_LM", hidden_size=32, xlora_size=16, adapters=adapters, **fields
        )
        model: nn.Module = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "internal_xlora_classifier" in name:
                parameter.mul_(4)
    model.eval()
    return model


def peft_folder(folder: Path, model: Any) -> Path:
    """As PEFT 0.12 to 0.19 write a model: the whole head, and no more, at the top."""
    folder.mkdir(parents=True)
    model.peft_config["default"].save_pretrained(folder)
    head = {k: t.contiguous() for k, t in model.state_dict().items() if "internal_xlora_classifier" in k}
    save_file(head, folder / "adapter_model.safetensors")
    return folder


def pollute(expert: Path, folder: Path, *, version: str) -> None:
    """An expert as those versions write it to a sub-folder, among tensors that are not its own."""
    folder.mkdir()
    config = json.loads((expert / "adapter_config.json").read_text()) | {"peft_version": version}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {
        key.replace("base_model.model.", "base_model.lora_model.model."): tensor
        for key, tensor in load_file(expert / "adapter_model.safetensors").items()
    }
    for key, tensor in list(tensors.items()):
        tensors[key.replace(".weight", ".1.weight")] = torch.full_like(tensor, 9)  # another expert's
    block = "base_model.lora_model.model.model.layers.0"
    tensors[f"{block}.input_layernorm.weight"] = torch.ones(32)
    tensors[f"{block}.self_attn.q_proj.base_layer.weight"] = torch.ones(32, 32)
    tensors["base_model.internal_xlora_classifier.layers.weight"] = torch.ones(3, 32)
    save_file(tensors, folder / "adapter_model.safetensors")

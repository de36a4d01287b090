"""Folders as programs and people leave them: each holds an adapter that is found, and nothing else is opened.

File lists are those of real repositories and output folders; the names of people and models are invented.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from registry.errors import InvalidAdapter
from registry.files.staging import Staging
from registry.intake.adapter_files import AdapterManifest, stage_adapter
from tests.registry.folders import write_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TOKENIZER = "tokenizer.json tokenizer_config.json special_tokens_map.json chat_template.jinja"
OLD_TOKENIZER = "tokenizer.model tokenizer_config.json special_tokens_map.json added_tokens.json"
TRAINER = "training_args.bin optimizer.pt scheduler.pt rng_state.pth trainer_state.json"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the adapter lies, what lies in the folder beside it, and what has to be asked for."""

    at: str = "."
    #: Paths from the folder that is given; one that ends in / is a folder.
    files: str
    ask: Mapping[str, str] = field(default_factory=dict)
    #: Words of the one note, or of the refusal if `is_refused`.
    words: str = "left out unopened"
    is_refused: bool = False


LAYOUTS = {
    "PEFT save_pretrained": Layout(files="README.md", words=""),
    "Trainer.save_model": Layout(
        files=f"README.md training_args.bin {OLD_TOKENIZER}", words="training_args.bin"
    ),
    "a Trainer's checkpoint": Layout(
        files=f"README.md {TRAINER} scaler.pt {TOKENIZER}", words="optimizer.pt"
    ),
    "a checkpoint of eight processes": Layout(
        files=f"{TRAINER} rng_state_0.pth rng_state_1.pth rng_state_7.pth", words="and 4 more"
    ),
    "a Trainer's output, finished": Layout(
        files=f"README.md training_args.bin {TOKENIZER} checkpoint-60/optimizer.pt checkpoint-60/{CONFIG}"
        f" checkpoint-60/{WEIGHTS} runs/Jan01_10-00-00_box/events.out.tfevents.1",
        words="with adapters of their own (checkpoint-60/)",
    ),
    "a Trainer's output, stopped": Layout(
        at="checkpoint-60",
        files="runs/Jan01_10-00-00_box/events.out.tfevents.1 checkpoint-60/optimizer.pt"
        " checkpoint-60/scheduler.pt",
        ask={"checkpoint": "last"},
    ),
    "TRL SFTTrainer": Layout(
        files=f"README.md training_args.bin {TOKENIZER}  trainer_state.json train_results.json"
        " all_results.json eval_results.json completions/completions_00001.parquet",
    ),
    "TRL DPO with its reference adapter": Layout(
        files=f"training_args.bin {TOKENIZER} reference/{CONFIG} reference/{WEIGHTS}",
        words="with adapters of their own (reference/)",
    ),
    "Unsloth save_pretrained": Layout(files=f"README.md {TOKENIZER}", words=""),
    "Unsloth with GGUF and Modelfile": Layout(
        files=f"README.md {TOKENIZER} config.json unsloth.Q4_K_M.gguf unsloth.BF16.gguf Modelfile",
        words="other weights (unsloth.BF16.gguf, unsloth.Q4_K_M.gguf)",
    ),
    "Unsloth outputs": Layout(
        at="checkpoint-60",
        files=f"checkpoint-60/{TRAINER.replace(' ', ' checkpoint-60/')} checkpoint-60/README.md",
        ask={"checkpoint": "60"},
    ),
    "a notebook's working folder": Layout(
        at="lora_model",
        files="train.ipynb sample_data/a.csv lora_model/tokenizer.json huggingface_tokenizers_cache/x.json"
        " _unsloth_sentencepiece_temp/x unsloth_compiled_cache/UnslothSFTTrainer.py",
        ask={"subfolder": "lora_model"},
        words="",
    ),
    "LLaMA-Factory": Layout(
        files=f"README.md {TOKENIZER} trainer_log.jsonl trainer_state.json training_loss.png"
        " training_eval_loss.png train_results.json all_results.json training_args.bin"
        " training_args.yaml llamaboard_config.yaml running_log.txt checkpoint-500/x",
    ),
    "LLaMA-Factory of a model with code": Layout(
        files="README.md qwen.tiktoken tokenization_qwen.py tokenizer_config.json special_tokens_map.json"
        " trainer_log.jsonl training_args.bin all_results.json",
        words="programs (tokenization_qwen.py)",
    ),
    "ms-swift": Layout(
        at="v0-20260101-101010/checkpoint-100",
        files="v0-20260101-101010/args.json v0-20260101-101010/logging.jsonl"
        " v0-20260101-101010/images/train_loss.png"
        " v0-20260101-101010/runs/events.out.tfevents.1 "
        " v0-20260101-101010/val_dataset.jsonl"
        " v0-20260101-101010/checkpoint-100/args.json "
        " v0-20260101-101010/checkpoint-100/additional_config.json"
        " v0-20260101-101010/checkpoint-100/optimizer.pt v0-20260101-101010/checkpoint-100/training_args.bin",
        ask={"subfolder": "v0-20260101-101010", "checkpoint": "last"},
        words="additional_config.json",
    ),
    "axolotl": Layout(
        files=f"README.md {TOKENIZER} config.json debug.log axolotl_config.yaml tokens_state.json"
        " merged/config.json merged/model.safetensors checkpoint-9/x last_run_prepared/x.arrow wandb/run/x",
        words="debug.log",
    ),
    "DeepSpeed": Layout(
        files=f"{TOKENIZER} latest zero_to_fp32.py"
        " global_step60/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
        " training_args.bin trainer_state.json rng_state_0.pth",
        words="global_step60/",
    ),
    "FSDP": Layout(
        files="pytorch_model_fsdp_0/__0_0.distcp optimizer_0/.metadata pytorch_model_fsdp.bin optimizer.bin"
        " scheduler.pt trainer_state.json random_states_0.pkl",
        words="pytorch_model_fsdp_0/",
    ),
    "weights of a later step beside": Layout(
        at="global_step_200",
        files="global_step_200/README.md global_step_200/extra_state/rank0.pt",
        ask={"checkpoint": "last"},
    ),
    "torchtune": Layout(
        at="epoch_0",
        files="epoch_0/adapter_model.pt epoch_0/model.safetensors.index.json"
        " epoch_0/ft-model-00001-of-00001.safetensors"
        " recipe_state/recipe_state.pt epoch_0/config.json epoch_0/original_repo_id.json",
        ask={"checkpoint": "last"},
        words="ft-model-00001-of-00001.safetensors",
    ),
    "a pickle of an older PEFT beside": Layout(
        files="adapter_model.bin README.md", words="pickles (adapter_model.bin)"
    ),
    "a clone of the hub": Layout(
        files=".gitattributes .git/HEAD .git/lfs/objects/x README.md LICENSE config.json", words="hidden"
    ),
    "a download into a folder": Layout(
        files=".cache/huggingface/download/x.metadata .cache/huggingface/.gitignore README.md",
        words="hidden (.cache/)",
    ),
    "a download from ModelScope": Layout(
        files=".msc .mv ._____temp/x configuration.json README.md", words="hidden (.msc, .mv, ._____temp/)"
    ),
    "a zip of a Mac": Layout(
        files="._adapter_config.json ._adapter_model.safetensors .DS_Store __MACOSX/._x",
        words="hidden (.DS_Store",
    ),
    "a repository of one adapter below": Layout(
        at="adapter",
        files="README.md .gitattributes train.py requirements.txt",
        ask={"subfolder": "adapter"},
        words="",
    ),
    "a repository of several languages": Layout(
        at="lora/de",
        files=f"README.md lora/fr/{CONFIG} lora/fr/{WEIGHTS}",
        ask={"subfolder": "lora/de"},
        words="",
    ),
    "a course's repository": Layout(
        files="README.md requirements.txt inference.py batch.py data/train.jsonl"
        " 日志/train.log 结果.txt figures/a.pdf"
        " 2º_teste(protótipo).ipynb link.lnk",
        words="2º_teste(protótipo).ipynb",
    ),
    "an optimizer's safetensors": Layout(
        files="optimizer.safetensors random_states_0.safetensors adapter_model.safetensors.index.json",
        words="optimizer.safetensors",
    ),
    "a vision model's processor": Layout(
        files=f"{TOKENIZER} preprocessor_config.json processor_config.json video_preprocessor_config.json"
        " generation_config.json",
        words="of the base model",
    ),
    "a whole model": Layout(
        at="elsewhere/adapter",
        files=f"config.json model-00001-of-00002.safetensors model.safetensors.index.json {TOKENIZER}",
        words="subfolder elsewhere/adapter",
        is_refused=True,
    ),
    "an output folder without a choice": Layout(
        at="checkpoint-60", files="runs/x trainer_state.json", words="--checkpoint last", is_refused=True
    ),
}


def made(root: Path, layout: Layout) -> Path:
    """The folder of a layout; in every file but the adapter's are bytes that no reader would take."""
    for name in layout.files.split():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json" and path.name != CONFIG:
            path.write_text("{}")
        else:
            path.write_bytes(b"left as it is")
    adapter = root / layout.at
    spare = write_adapter(root.parent / "spare")
    adapter.mkdir(parents=True, exist_ok=True)
    for file in spare.iterdir():
        file.rename(adapter / file.name)
    (root / layout.at / "README.md").write_text("---\nlicense: mit\n---\n")
    return root


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_as_people_have_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = LAYOUTS[name]
    root = made(tmp_path / "given", layout)
    opened: set[str] = set()
    open_, own = (
        os.open,
        {CONFIG, WEIGHTS, "README.md", "LICENSE", *TOKENIZER.split(), *OLD_TOKENIZER.split()},
    )

    def noting(path: Any, *rest: Any, **more: Any) -> int:
        if str(path).startswith(str(root)):
            opened.add(os.path.basename(path))  # noqa: PTH119
        return open_(path, *rest, **more)

    def stage() -> AdapterManifest:
        (tmp_path / "stored").mkdir()
        return stage_adapter(
            root,
            Staging(tmp_path / "stored"),
            subfolder=layout.ask.get("subfolder"),
            checkpoint=layout.ask.get("checkpoint"),
        )

    monkeypatch.setattr(os, "open", noting)
    if layout.is_refused:
        with pytest.raises(InvalidAdapter) as caught:
            stage()
        assert layout.words in str(caught.value)
        return
    manifest = stage()
    monkeypatch.undo()
    assert opened <= own | {"trainer_state.json"}
    assert len(manifest.modules) == 4
    assert manifest.licence == "mit"
    assert set(manifest.files) == {CONFIG, WEIGHTS, "README.md"} | ({"LICENSE"} & set(layout.files.split()))
    if layout.words:
        assert len(manifest.warnings) == 1
        assert layout.words in manifest.warnings[0]
    else:
        assert manifest.warnings == ()

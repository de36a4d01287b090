"""The model under test: SmolLM2-135M, three trained experts, and a trained scaling head.

Made once and kept. Untrained experts would not do: how often the base model guesses the mixture's next
token decides how fast the mixture generates.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from examples.demo import find_gguf
from xlora_engine.adapter_training.settings import AdapterTraining
from xlora_engine.adapter_training.train_adapter import train_adapter
from xlora_engine.config import XLoraConfig
from xlora_engine.data.chat import ChatTokenizer, EncodedExample, encode, pad_token, read_examples
from xlora_engine.data.shared_prefix import shared_prefix
from xlora_engine.head_training.hidden_states import compute_hidden_states
from xlora_engine.head_training.routed_examples import RoutedExamples
from xlora_engine.head_training.settings import WarmStart
from xlora_engine.head_training.warm_start import warm_start
from xlora_engine.model import XLoraModel
from xlora_engine.sources.base_model import convert_gguf, load_base, load_tokenizer

EXAMPLES = Path(__file__).parent.parent / "examples"
DOMAINS = ("bio", "protein", "materials")
MAX_TOKENS = 128

#: The same dtype on every machine; where a CPU emulates it, the figures mean nothing.
DTYPE = torch.bfloat16

TRAINING = AdapterTraining(rank=8, alpha=16, steps=80, batch_size=4, learning_rate=2e-3, warmup_steps=4)
HEAD = XLoraConfig(layerwise_scalings=True, xlora_depth=2, xlora_size=256)
ROUTING = WarmStart(steps=400)
#: Examples of each domain that the head learns to route, one in eight held out.
ROUTED_EXAMPLES = 96


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The folders that every contender loads."""

    base: Path
    experts: dict[str, Path]
    #: Base model, experts and trained head, as `XLoraModel.save_pretrained` writes them.
    composition: Path

    def write(self, path: Path) -> None:
        """Write it as JSON, last of all, so that an incomplete subject is made again."""
        experts = {name: str(folder) for name, folder in self.experts.items()}
        fields = {"base": str(self.base), "experts": experts, "composition": str(self.composition)}
        path.write_text(json.dumps(fields, indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Subject":
        """Read what `write` wrote, or a file written by hand for another base model and composition."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            base=Path(fields["base"]),
            experts={name: Path(folder) for name, folder in fields["experts"].items()},
            composition=Path(fields["composition"]),
        )


def find_or_make(folder: Path, head: XLoraConfig = HEAD) -> Path:
    """The subject's record in a folder named by its recipe; if it is missing, it is made in some minutes."""
    folder = folder / hashlib.sha256(_recipe(head).encode()).hexdigest()[:12]
    record = folder / "subject.json"
    if not record.exists():
        _make(folder, head).write(record)
    return record


def domain_examples(tokenizer: ChatTokenizer, split: str) -> dict[str, list[EncodedExample]]:
    """The encoded examples of each domain; `split` is train or eval."""
    return {
        domain: [
            encode(tokenizer, example, max_tokens=MAX_TOKENS)
            for example in read_examples(EXAMPLES / f"{domain}.{split}.jsonl")
        ]
        for domain in DOMAINS
    }


def _recipe(head: XLoraConfig) -> str:
    """A text that changes whenever the subject would."""
    data = [
        hashlib.sha256((EXAMPLES / f"{domain}.train.jsonl").read_bytes()).hexdigest() for domain in DOMAINS
    ]
    return json.dumps([asdict(TRAINING), head.to_json(), asdict(ROUTING), ROUTED_EXAMPLES, str(DTYPE), data])


def _make(folder: Path, head: XLoraConfig) -> Subject:
    base_folder = folder / "base"
    if not base_folder.exists():
        print("converting the base model", flush=True)
        convert_gguf(find_gguf(), base_folder)
    base = load_base(base_folder, dtype=DTYPE, device=torch.device("cpu"))
    tokenizer = load_tokenizer(base_folder)
    examples = domain_examples(tokenizer, "train")
    experts = {}
    for domain in DOMAINS:
        experts[domain] = folder / domain / "adapter"
        if (experts[domain] / "adapter_model.safetensors").exists():
            continue  # an earlier call was interrupted
        print(f"training the expert {domain}", flush=True)
        made = train_adapter(
            base, tokenizer, examples[domain], TRAINING, base_name="smollm2", folder=folder / domain
        )
        print(f"  {made.seconds:.0f} s, final loss {made.final_loss:.3f}", flush=True)
    print("training the scaling head", flush=True)
    model = _compose(base, experts, head, examples, pad_id=pad_token(tokenizer))
    model.save_pretrained(folder / "composition")
    return Subject(base=base_folder, experts=experts, composition=folder / "composition")


def _compose(
    base: PreTrainedModel,
    experts: dict[str, Path],
    head: XLoraConfig,
    examples: dict[str, list[EncodedExample]],
    *,
    pad_id: int,
) -> XLoraModel:
    model = XLoraModel.from_adapters(base, experts, head)
    warm_start(model.head, routed_examples(model, examples, pad_id=pad_id), ROUTING)
    return model.eval()


def routed_examples(
    model: XLoraModel, examples: dict[str, list[EncodedExample]], *, pad_id: int
) -> RoutedExamples:
    """The first examples of each domain with their hidden states, in the form that training takes."""
    flat = [example for domain in DOMAINS for example in examples[domain][:ROUTED_EXAMPLES]]
    hidden = compute_hidden_states(
        model.scaling_pass,
        flat,
        new_cache=lambda: model.new_cache().scaling,
        pad_id=pad_id,
        tokens_per_batch=2048,
        device=model.device,
    )
    indices = range(len(flat))
    return RoutedExamples(
        hidden=hidden,
        experts=torch.arange(len(DOMAINS)).repeat_interleave(ROUTED_EXAMPLES),
        train=tuple(index for index in indices if index % 8),
        held_out=tuple(index for index in indices if index % 8 == 0),
        shared=len(shared_prefix(flat)),
    )

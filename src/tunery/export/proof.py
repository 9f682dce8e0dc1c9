"""That an export answers as the model does here, shown by the program that will load it.

Prompts and answers are rows that the job was validated with, or was trained on. At each token of the answers two things
must be the same: which token is the most likely one, so that a greedy answer is the same word for word, and how likely
the row's own token is. Both sides compute in fp32, so that what is seen is the export and not the rounding of sums.
llama.cpp tells the likelihood of its own tokens only: it answers the prompts greedily, and its answers are compared.

Our side is the engine's own forward pass, a layer in memory at a time.
"""

import gc
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import torch

from tunery.chat.examples import Message
from tunery.chat.render import Renderer
from tunery.chat.template import NO_THOUGHTS, RenderError
from tunery.domain.errors import InvalidRequest
from tunery.export.llama_cpp import FILE, write_gguf
from tunery.export.lora_gguf import LORA_FILE
from tunery.export.spec import ExportSpec
from tunery.export.tensors import CHUNK_NUMBERS
from tunery.models.config import read_config
from tunery.serving.forward.kv import KeyValueCache
from tunery.serving.forward.model import Model, Run
from tunery.serving.forward.weights import load_weights
from tunery.training.examples import UnusableFile, read

NUM_SAMPLES = 4
MAX_SAMPLE_TOKENS = 512
MAX_PLACES = 64  # of an answer that are compared: each has a number for each word of the vocabulary
BLOCK = 16
QUESTIONS = ("What can you do for me?", "Write one sentence about the sea.", "How many days has a week?")
"""Asked when the job's rows are gone: then the tokens of the prompts themselves are compared."""


@dataclass(frozen=True)
class Bound:
    """What may differ. `gap`: how much less likely (in log-probability) than our best the other program's best may be
    for us, where it chooses another token: two that are as likely as each other are no difference."""

    mean: float
    largest: float
    gap: float


BOUNDS = {
    "adapter": Bound(mean=0.002, largest=0.02, gap=0.01),  # the order of sums
    "merged": Bound(mean=0.03, largest=0.5, gap=0.1),  # rounding of the sum of weight and adapter to the base's type
    "f16": Bound(mean=0.03, largest=0.5, gap=0.1),  # llama.cpp rounds activations, too
    "bf16": Bound(mean=0.06, largest=1.0, gap=0.2),
    "q8_0": Bound(mean=0.15, largest=2.0, gap=2.0),  # 8 bits choose otherwise in places: told, and far off is refused
    "q4_k_m": Bound(mean=0.4, largest=4.0, gap=4.0),
}


@dataclass(frozen=True)
class Sample:
    token_ids: list[int]
    start: int  # the first token that is compared


@dataclass(frozen=True)
class Reading:
    """What a program says to the tokens of a sample from its start on."""

    best: list[int]  # the most likely token in the place of each
    logprobs: Sequence[float | None]  # of the tokens that stand there; None where the program does not tell


@dataclass(frozen=True)
class Proof:
    program: str  # that loaded the export
    num_prompts: int
    num_tokens: int
    num_same_tokens: int  # where both find the same token the most likely
    largest_gap: float  # see Bound
    mean_difference: float  # of log-probabilities
    largest_difference: float
    loss_difference: float  # mean log-probability here less that of the export
    num_templates: int  # conversations that were rendered by both
    num_same_templates: int
    bound: Bound

    @property
    def agrees(self) -> bool:
        # Written so that NaN fails.
        bound, num_others = self.bound, self.num_tokens - self.num_same_tokens
        near = self.mean_difference <= bound.mean and self.largest_difference <= bound.largest
        same = num_others == 0 or self.largest_gap <= bound.gap
        return self.num_tokens > 0 and near and same and self.num_same_templates == self.num_templates

    @property
    def summary(self) -> str:
        return (
            f"{self.program} finds the same token the most likely in {self.num_same_tokens} of {self.num_tokens} "
            f"places of {self.num_prompts} prompts; log-probabilities differ by {self.mean_difference:.4f} on average "
            f"and by {self.largest_difference:.4f} at most (allowed: {self.bound.mean} and {self.bound.largest}); "
            f"{self.num_same_templates} of {self.num_templates} conversations become the same token ids."
        )

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "agrees": self.agrees}


def prove(spec: ExportSpec, target: Path) -> Proof:
    """Of the export in `target`."""
    renderer = Renderer.from_dir(spec.model_dir, completes=spec.completes)
    asked = [] if spec.completes else list(conversations(renderer))
    samples = _samples(spec, renderer)
    if spec.format in ("gguf", "ollama"):
        with _model_file(spec, target) as file:
            lora = target / LORA_FILE if spec.lora else None
            samples, theirs, rendered, program = _ask_llama_cpp(file, lora, samples, asked)
    else:
        model, program = _load(spec, target)
        theirs = [_read_off(model(sample), sample) for sample in samples]
        del model
        gc.collect()  # its modules know each other: before ours is read, or both are held
        rendered = _render(target, asked)
    ours, gaps = read_here(spec, samples, [reading.best for reading in theirs])
    return compare(spec, program, list(zip(ours, theirs, strict=True)), gaps, rendered)


@contextmanager
def _model_file(spec: ExportSpec, target: Path) -> Iterator[Path]:
    """What llama.cpp loads; of an adapter alone its base, made for the proof."""
    if not spec.lora:
        yield target / FILE
        return
    with tempfile.TemporaryDirectory(prefix="base-", dir=target.parent) as folder:
        write_gguf(replace(spec, lora=False, type="f16"), None, Path(folder), lambda *_: None)
        yield Path(folder) / FILE


def compare(
    spec: ExportSpec,
    program: str,
    readings: list[tuple[Reading, Reading]],
    gaps: list[float],
    rendered: list[tuple[list[int], list[int]]],
) -> Proof:
    """Of our readings with the export's. `rendered`: token ids of conversations, ours and theirs."""
    both = [pair for here, there in readings for pair in zip(here.logprobs, there.logprobs, strict=True)]
    pairs = [(here, there) for here, there in both if here is not None and there is not None]
    differences = [abs(here - there) for here, there in pairs]
    best = [pair for here, there in readings for pair in zip(here.best, there.best, strict=True)]
    num = max(1, len(pairs))
    return Proof(
        program=program,
        num_prompts=len(readings),
        num_tokens=len(best),
        num_same_tokens=sum(here == there for here, there in best),
        largest_gap=_largest(gaps),
        mean_difference=sum(differences) / num,
        largest_difference=_largest(differences),
        loss_difference=sum(here - there for here, there in pairs) / num,
        num_templates=len(rendered),
        num_same_templates=sum(here == there for here, there in rendered),
        bound=BOUNDS.get(spec.format) or BOUNDS[spec.type],
    )


def _largest(values: list[float]) -> float:
    return float("nan") if any(value != value for value in values) else max(values, default=0.0)


# ---- prompts


def _samples(spec: ExportSpec, renderer: Renderer) -> list[Sample]:
    found = list(_from_rows(spec, renderer))[:NUM_SAMPLES]
    if found:
        return found
    texts = ([{"role": "user", "content": text}] for text in QUESTIONS)
    prompts = (renderer.encode(t[0]["content"]) if spec.completes else renderer.prompt_ids(t) for t in texts)
    return [Sample(ids, 1) for ids in prompts]


def _from_rows(spec: ExportSpec, renderer: Renderer) -> Iterator[Sample]:
    """Rows whose answer begins within the limit."""
    if spec.rows is None:
        return
    method = "dpo" if spec.method == "dpo" else "supervised"
    try:
        examples = read(spec.rows, method, renderer, MAX_SAMPLE_TOKENS, param="training_file")
    except UnusableFile:
        return
    for example in examples:
        row = example.rows[0]
        start = next((index for index in range(1, len(row.token_ids)) if row.loss_weights[index]), None)
        if start is not None:
            yield Sample(row.token_ids[: start + MAX_PLACES], start)


def conversations(renderer: Renderer) -> Iterator[tuple[list[Message], list[int]]]:
    """Some that a template may render in its own way, and the token ids that they become here."""
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi, who are you?"}
    answer, more = {"role": "assistant", "content": "A model."}, {"role": "user", "content": "  12345\nand 'ö'?"}
    for messages in ([user], [system, user], [user, answer, more], [system, user, answer, more]):
        try:
            yield messages, renderer.prompt_ids(messages)
        except RenderError:  # some templates know no system message
            continue


# ---- both sides


def read_here(spec: ExportSpec, samples: list[Sample], theirs: list[list[int]]) -> tuple[list[Reading], list[float]]:
    """What our engine's pass says, and by how much the others' best tokens are less likely for us than our own."""
    config = read_config(spec.model_dir)
    weights = load_weights(spec.model_dir, config, torch.float32, precision="full", streamed=True)
    lengths = [-(-len(sample.token_ids) // BLOCK) for sample in samples]
    model = Model(config, weights, KeyValueCache(config, sum(lengths), BLOCK, torch.float32))
    adapter = model.read_adapter(spec.adapter_dir) if spec.adapter_dir else None
    begins = [sum(lengths[:index]) for index in range(len(lengths))]
    runs = [
        Run(sample.token_ids, 0, list(range(begin, begin + length)), adapter)
        for sample, begin, length in zip(samples, begins, lengths, strict=True)
    ]
    hidden = model.prefill(runs, exact=True).split([len(sample.token_ids) for sample in samples])
    readings, gaps = [], []
    for sample, states, best in zip(samples, hidden, theirs, strict=True):
        logits = model.exact_logits(states[sample.start - 1 : -1])
        readings.append(_read_off(logits, sample))
        gaps += (logits.max(dim=1).values - _picked(logits, best)).tolist()
    return readings, gaps


def _read_off(logits: torch.Tensor, sample: Sample) -> Reading:
    """logits [places, V], of the places before each token from the sample's start on."""
    logprobs = _picked(logits, sample.token_ids[sample.start :]) - logits.logsumexp(dim=1)
    return Reading(logits.argmax(dim=1).tolist(), logprobs.tolist())


def _picked(logits: torch.Tensor, token_ids: Sequence[int]) -> torch.Tensor:
    """logits [rows, V] → [rows], each of the token of its row."""
    return logits.gather(1, torch.tensor(token_ids).unsqueeze(1)).squeeze(1)


Logits = Callable[[Sample], torch.Tensor]
"""[places, V]: of the places before each token from the sample's start on."""


def _load(spec: ExportSpec, target: Path) -> tuple[Logits, str]:
    """The export as transformers or PEFT loads it, and the program's name."""
    import transformers

    folder = spec.model_dir if spec.format == "adapter" else target
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    program = f"transformers {transformers.__version__}"
    if spec.format == "adapter":
        import peft  # it takes a second or two, which merged weights need not

        model, program = peft.PeftModel.from_pretrained(model, str(target)), f"peft {peft.__version__} on {program}"
    _widen(model.eval())

    def logits(sample: Sample) -> torch.Tensor:
        """[places, V]."""
        places = torch.arange(sample.start - 1, len(sample.token_ids) - 1)
        with torch.inference_mode():
            return model(input_ids=torch.tensor([sample.token_ids]), logits_to_keep=places).logits[0].float()

    return logits, program


def _widen(model: torch.nn.Module) -> None:
    """Have each layer compute in fp32, of its weights some rows widened while it computes: whole, they might not
    fit."""

    def before(module: torch.nn.Module, _: Any) -> None:
        for parameter in module.parameters(recurse=False):
            kept[parameter] = parameter.data
            parameter.data = parameter.data.float()

    def after(module: torch.nn.Module, _: Any, __: Any) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = kept.pop(parameter)

    kept: dict[torch.nn.Parameter, torch.Tensor] = {}
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.register_forward_hook(lambda _, __, output: output.float())
        elif isinstance(module, torch.nn.Linear):
            module.forward = partial(_linear, module)  # pyright: ignore[reportAttributeAccessIssue] - named otherwise
        elif next(module.parameters(recurse=False), None) is not None:
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)


def _linear(module: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """x [..., in] → [..., out]."""
    y = x.new_empty(*x.shape[:-1], module.out_features)
    step = max(1, CHUNK_NUMBERS // module.in_features)
    for begin in range(0, module.out_features, step):
        part = slice(begin, begin + step)
        bias = None if module.bias is None else module.bias[part].float()
        y[..., part] = torch.nn.functional.linear(x, module.weight[part].float(), bias)
    return y


def _render(target: Path, asked: list[tuple[list[Message], list[int]]]) -> list[tuple[list[int], list[int]]]:
    """Each conversation's ids, and those that transformers makes with the export's own tokenizer and template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(target)
    how = {"add_generation_prompt": True, "tokenize": True, "return_dict": False, **NO_THOUGHTS}
    return [(ids, tokenizer.apply_chat_template(messages, **how)) for messages, ids in asked]


NUM_ANSWER_TOKENS = 24
TIMEOUT_S = 600.0  # for one answer of a large model on a busy machine
Rendered = list[tuple[list[int], list[int]]]


def _ask_llama_cpp(
    file: Path, lora: Path | None, samples: list[Sample], asked: list[tuple[list[Message], list[int]]]
) -> tuple[list[Sample], list[Reading], Rendered, str]:
    """The prompts with llama.cpp's greedy answers to them, what it says to these, and the conversations' ids. Raises
    InvalidRequest without xllamacpp."""
    try:
        import xllamacpp
    except ImportError as exc:
        raise InvalidRequest(
            "llama.cpp, which proves the file, is not installed: pip install 'tunery[llamacpp]'.", param="format"
        ) from exc
    params = xllamacpp.CommonParams()  # pyright: ignore[reportAttributeAccessIssue]
    params.model.path, params.n_ctx, params.verbosity, params.warmup = str(file), 2 * MAX_SAMPLE_TOKENS, -1, False
    params.use_jinja = True
    if lora is not None:
        beside = xllamacpp.CommonAdapterLoraInfo()  # pyright: ignore[reportAttributeAccessIssue]
        beside.path, beside.scale = str(lora), 1.0
        params.lora_adapters = [beside]
    server = xllamacpp.Server(params)  # pyright: ignore[reportAttributeAccessIssue]
    answered, readings = [], []
    with httpx.Client(base_url=server.listening_address, timeout=TIMEOUT_S) as client:
        for sample in samples:
            prompt = sample.token_ids[: sample.start] if sample.start > 1 else sample.token_ids
            reading = _greedy(client, prompt)
            answered.append(Sample(prompt + reading.best, len(prompt)))
            readings.append(reading)
        rendered = [(ids, _as_rendered(client, messages)) for messages, ids in asked]
    return answered, readings, rendered, f"llama.cpp (xllamacpp {xllamacpp.__version__})"


def _greedy(client: httpx.Client, prompt: list[int]) -> Reading:
    """The answer, up to its end, and how likely llama.cpp finds each of its tokens. It keeps that to itself for a token
    that ends within a character."""
    request = {"prompt": prompt, "n_predict": NUM_ANSWER_TOKENS, "temperature": 0, "n_probs": 1, "return_tokens": True}
    done = client.post("/completion", json=request).raise_for_status().json()
    told = done.get("completion_probabilities", [])
    places = places_of([each["id"] for each in told], done["tokens"])
    return Reading(done["tokens"], [None if place is None else told[place]["logprob"] for place in places])


def places_of(told: list[int], tokens: list[int]) -> list[int | None]:
    """Which of those that are told each token is; `told` are some of the tokens, in their order. None: it is not told,
    or one of several equal ones is, and nothing says which."""
    first, last = _matched(told, tokens), _matched(told[::-1], tokens[::-1])[::-1]
    return [
        one if one is not None and other is not None and one == len(told) - 1 - other else None
        for one, other in zip(first, last, strict=True)
    ]


def _matched(told: list[int], tokens: list[int]) -> list[int | None]:
    """Each of `told` taken for the first token that it may be."""
    places: list[int | None] = []
    place = 0
    for token in tokens:
        is_told = place < len(told) and told[place] == token
        places.append(place if is_told else None)
        place += is_told
    return places


def _as_rendered(client: httpx.Client, messages: list[Message]) -> list[int]:
    """By the template in the file."""
    body = {"messages": messages, "chat_template_kwargs": NO_THOUGHTS}
    text = client.post("/apply-template", json=body).raise_for_status().json()["prompt"]
    asked = {"content": text, "add_special": True, "parse_special": True}
    return client.post("/tokenize", json=asked).raise_for_status().json()["tokens"]

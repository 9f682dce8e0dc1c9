"""Puts an engine together from its settings."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256

import torch

from tunery.chat.render import Renderer
from tunery.domain.errors import InvalidRequest, ServerFault
from tunery.kernels import int8 as eight_bit
from tunery.kernels import process
from tunery.kernels.matmul_dtype import choose_matmul_dtype
from tunery.models.config import NotDescribed, read_config, read_sizes
from tunery.models.sources import cache
from tunery.serving.blocks import BlockPool
from tunery.serving.constraints import Grammars
from tunery.serving.embeddings import EmbeddingModel
from tunery.serving.engine import Engine
from tunery.serving.forward.interface import Forward
from tunery.serving.forward.kv import KeyValueCache, blocks_for
from tunery.serving.forward.model import Model
from tunery.serving.forward.weights import load_weights
from tunery.serving.http.broker import Broker
from tunery.serving.http.embeddings import Embeddings
from tunery.serving.http.service import Service
from tunery.serving.runner import Runner, compute_alone
from tunery.serving.scheduler import Limits, Scheduler
from tunery.serving.settings import EngineSettings
from tunery.serving.slots import AdapterSlots
from tunery.serving.text import TokenTable
from tunery.texts import say

log = logging.getLogger(__name__)

# Five for every number of answers at once where they are no bytes, and those of the last prompts' lengths.
_KEPT_MATMULS = 128


def build_service(settings: EngineSettings, loop: asyncio.AbstractEventLoop) -> Service:
    """Reads the weights; takes a second or two. The engine is not started yet. Raises InvalidRequest for a model
    that cannot be read."""
    num_threads = settings.threads or torch.get_num_threads()
    # Packing is thousands of small operations: on a busy machine threads that wait for each other cost ten times more.
    torch.set_num_threads(1)
    vocab_size = read_sizes(settings.model_dir).vocab_size
    renderer = Renderer.from_dir(settings.model_dir)
    beside = ThreadPoolExecutor(1)  # while the weights are packed, for which the interpreter is not needed
    grammars = beside.submit(Grammars, settings.model_dir, vocab_size, renderer.eos_ids)
    table = beside.submit(TokenTable, renderer.tokenizer, vocab_size)
    runner = Runner(load_forward(settings))
    torch.set_num_threads(num_threads)
    scheduler = Scheduler(
        Limits(settings.max_num_batched_tokens, settings.max_num_seqs),
        BlockPool(runner.num_blocks, settings.block_size),
        AdapterSlots(settings.max_adapters),
    )
    broker = Broker(loop)
    engine = Engine(runner, scheduler, table.result(), renderer.eos_ids, broker.sink)
    beside.shutdown()
    weights, form = runner.precision, eight_bit.FORM
    used = form.name if form and weights == "8bit" else torch.backends.cpu.get_cpu_capability()
    engine.metrics.describe(base=settings.served_names[0], weights=weights, instructions=used)
    log.info("weights are multiplied as %s by %s", weights, used)
    return Service(
        engine=engine,
        broker=broker,
        renderer=renderer,
        table=table.result(),
        grammars=grammars.result(),
        embeddings=Embeddings(engine, settings.embedding_models, partial(_load_embedding_model, settings), broker.load),
        base_names=settings.served_names,
        fingerprint=_fingerprint(settings, runner),
        api_key=settings.api_key,
        host=settings.host,
        adapters_below=settings.adapters_below,
    )


def load_forward(settings: EngineSettings) -> Forward:
    """Ours where the architecture is described, else transformers' own. Raises InvalidRequest."""
    process.keep_matmuls(_KEPT_MATMULS)
    model_dir, dtype, block_size = settings.model_dir, choose_dtype(settings.dtype), settings.block_size
    precision = None if settings.weights == "auto" else settings.weights
    try:
        config = read_config(model_dir)
    except NotDescribed:  # takes seconds to import
        from tunery.serving.forward.transformers_forward import TransformersForward

        return TransformersForward(
            model_dir, dtype, precision=precision, cache_bytes=settings.cache_bytes, block_size=block_size
        )
    weights = load_weights(model_dir, config, dtype, precision=precision)
    num_blocks = blocks_for(
        config, block_size, dtype, num_bytes=settings.cache_bytes, context_length=config.context_length
    )
    return Model(config, weights, KeyValueCache(config, num_blocks, block_size, dtype))


def _load_embedding_model(settings: EngineSettings, source: str) -> EmbeddingModel:
    """Fetched, where it is not there yet, and read, beside the engine's thread. Raises SourceError."""
    compute_alone()
    folder = cache.ensure(source, settings.model_cache.expanduser())
    try:
        return EmbeddingModel(folder)
    except InvalidRequest as exc:
        log.error("an embedding model cannot be used: %s", exc.message)
        raise ServerFault(say("error.weights_not_loaded", name=source)) from exc


def choose_dtype(name: str) -> torch.dtype:
    """`auto`: bfloat16 where the processor is fast at it or multiplies bytes instead, else float32."""
    if name != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]
    return torch.bfloat16 if eight_bit.is_available() else choose_matmul_dtype(torch.bfloat16, "cpu")


def _fingerprint(settings: EngineSettings, runner: Runner) -> str:
    """Changes when answers to the same seed may change."""
    text = f"{settings.model_dir.name} {runner.dtype} {runner.precision} {torch.__version__}"
    return "fp_" + sha256(text.encode()).hexdigest()[:10]

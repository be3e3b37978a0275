"""A loaded pair and its words: prompts and conversations become the engine's requests."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from geminate.async_calls import Stepper
from geminate.calls import Prompt, sampling
from geminate.engine.engine import Engine
from geminate.engine.messages import EngineRequest, Reply
from geminate.engine.pace import MAX_GAP_S
from geminate.engine.sequence import StopCheck
from geminate.engine.service import EngineService
from geminate.errors import GeminateError, ParameterError, PrefixStoreError, TokenizerError
from geminate.grammar.compiler import GrammarCompiler
from geminate.grammar.state import Grammar
from geminate.kv.budget import KVBudget
from geminate.kv.prefix_store import DEFAULT_BYTES, PrefixStore
from geminate.kv.store import KVFormat
from geminate.loading.calibrate import cost_model, cost_profile
from geminate.loading.identity import kv_identity
from geminate.loading.load import Pair, load_pair
from geminate.loading.locate import embedded_pair
from geminate.loading.options import LoadOptions
from geminate.params import ResolvedSampling, SamplingParams, parse_speculation, token_ids
from geminate.plan.config import TargetConfig
from geminate.runtime.drafter import RopePosition
from geminate.speculation.costs import CostModel
from geminate.speculation.sources.mtp import MtpDrafter
from geminate.text.reply import make_reply, open_thought
from geminate.text.template import ChatTemplate
from geminate.text.tokenizer import Tokenizer
from geminate.weights.cache import Message
from geminate.weights.packing import Progress
from geminate.weights.presets import Preset

SpeculationArg = Literal["auto", "off", "ngram"] | int | str
MAX_RUNNING = 8  # completions of one LLM that share passes; more of them wait


def stop_check(request: EngineRequest, tokenizer: Tokenizer) -> StopCheck:
    """A function that takes a completion's tokens in order and returns True once a stop string is complete."""
    reply = make_reply(request.reply, tokenizer, request.sampling.stop, request.prompt_ids)

    def check(token: int) -> bool:
        reply.push(token)
        return reply.stopped

    return check


class LoadedModel:
    """What `LLM` is made of; its arguments are there.

    Attributes:
        pair, config: the compiled models, and the target's configuration.
        tokenizer, template: None where the checkpoint has none.
        prefix_store: where prompts' KV blocks outlive the process; None: nowhere.
        engine, service: what its completions run in.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        adapter: str | Path | Sequence[str | Path] = (),
        drafter: str | Path | None = "auto",
        weights: Preset = "auto",
        kv: KVFormat = "f16",
        threads: int | None = None,
        prefill_chunk: int = 256,
        rope_position: RopePosition = "P",
        use_cache: bool = True,
        cache_dir: str | Path | None = None,
        verify_weights: bool | None = None,
        prefault: bool = False,
        max_context: int | None = None,
        prefix_store: str | Path | None = None,
        prefix_store_bytes: int | str = DEFAULT_BYTES,
        on_message: Message | None = None,
        progress: Progress | None = None,
    ) -> None:
        options = LoadOptions(
            model=model, adapter=adapter, drafter=drafter, weights=weights, kv=kv, threads=threads,
            prefill_chunk=prefill_chunk, rope_position=rope_position, use_cache=use_cache, cache_dir=cache_dir,
            verify_weights=verify_weights, prefault=prefault, max_context=max_context, prefix_store=prefix_store,
            prefix_store_bytes=prefix_store_bytes,
        )  # fmt: skip
        pair = load_pair(options, on_message=on_message, progress=progress)
        self.pair = pair
        source = pair.source
        assert source is not None  # `load_pair` always has one
        self.tokenizer = Tokenizer.load(source.checkpoint, source.family.dialect)
        if self.tokenizer is not None:
            pair.target.config = _with_ends(pair.target.config, self.tokenizer.turn_ends)
        self.config = config = pair.target.config
        self.template = ChatTemplate.load(source.checkpoint, source.family.dialect)
        self._grammars: GrammarCompiler | None = None
        if self.tokenizer is not None:
            self._grammars = GrammarCompiler(self.tokenizer, vocab_size=config.vocab_size, eos_ids=config.eos_token_ids)
        self._prefill_chunk = prefill_chunk
        self._drafter = MtpDrafter(pair.drafter) if pair.drafter is not None else None
        self.prefix_store = _prefix_store(pair, options, on_message)
        if self.prefix_store is not None:
            weakref.finalize(self, self.prefix_store.close)  # at exit too: what is queued is written
        self.engine = self.new_engine(max_running=MAX_RUNNING)
        self.service = EngineService(self.engine)
        self._stepper = Stepper(self.service)
        self._numbers = itertools.count()
        self._on_message = on_message
        self._loading = threading.Lock()
        self._costs_known = self._closed = False

    __init__.__qualname__ = "LLM"  # what Python calls it where an argument is wrong

    @property
    def context_length(self) -> int:
        """Tokens that prompt and completion together may have."""
        return self.config.max_position_embeddings

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt: text is encoded after the bos token, ids are taken as they are.

        Raises:
            TokenizerError: text for a model without tokenizer, or text that cannot be encoded. ParameterError: neither
                text nor token ids.
        """
        if isinstance(prompt, str):
            return self._need_tokenizer().encode(prompt)
        return token_ids(prompt)

    def _need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise TokenizerError("this model has no tokenizer.json: pass token ids instead of text")
        return self.tokenizer

    def token_text(self, token: int) -> str:
        """The text of a single token, special tokens included; a byte as ``<0xE2>``."""
        piece = None if self.tokenizer is None else self.tokenizer.piece(token)
        if isinstance(piece, int):
            return f"<0x{piece:02X}>"
        return piece or ""

    def chat_ids(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        seconds: float | None = None,
    ) -> list[int]:
        """Token ids of a conversation through the checkpoint's chat template.

        Args:
            add_generation_prompt: open the model's turn at the end; None: unless the last message is continued.
            continue_final_message: leave the last message, an assistant's, open, so that the reply goes on with it.
            seconds: after which the template is stopped; None: 5.

        Raises:
            TokenizerError: no template, or one that refuses the messages. TemplateTimeoutError: one that does not end.
            ParameterError: bad messages.
        """
        if self.template is None:
            raise TokenizerError("this model has no chat template: use generate with plain text")
        text = self.template.render(
            messages,
            tools=tools,
            enable_thinking=enable_thinking,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            seconds=seconds,
        )
        return self._need_tokenizer().encode(text, add_bos=False)

    @property
    def grammars(self) -> GrammarCompiler:
        """Compiles grammars for this model's replies.

        Raises:
            TokenizerError: the model has no tokenizer.
        """
        self._need_tokenizer()
        assert self._grammars is not None
        return self._grammars

    def resolve(self, params: SamplingParams | None) -> ResolvedSampling:
        """Fill parameters from the model's generation defaults."""
        return (params or SamplingParams()).resolved(asdict(self.config.generation))

    def measure_costs(self, on_pass: Callable[[], None] | None = None) -> None:
        """Make sure that ``auto`` knows what passes cost here; the first use on a machine takes a second or two.

        Args:
            on_pass: called before every pass that is measured; what it raises ends the measuring.
        """
        with self._loading:
            if not self._costs_known:
                self.engine.timing.costs = cost_model(self.pair, cost_profile(self.pair, self._on_message, on_pass))
                self._costs_known = True

    def new_engine(
        self,
        *,
        prefill_chunk: int | None = None,
        prefill_share: int | None = None,
        max_gap_s: float = MAX_GAP_S,
        max_running: int | None = None,
        memory: KVBudget | None = None,
        costs: CostModel | None = None,
    ) -> Engine:
        """Another engine over the same weights; see `Engine`. None for the chunk is the LLM's own."""
        tokenizer, grammars = self.tokenizer, self._grammars
        return Engine(
            self.pair.target,
            self._drafter,
            prefill_chunk=prefill_chunk or self._prefill_chunk,
            prefill_share=prefill_share,
            max_gap_s=max_gap_s,
            max_running=max_running,
            memory=memory,
            store=self.prefix_store,
            costs=costs,
            constraints=None if grammars is None else grammars.start,
            stop_checks=None if tokenizer is None else lambda request: stop_check(request, tokenizer),
        )

    def request(
        self,
        ids: list[int],
        params: SamplingParams | None = None,
        *,
        speculation: SpeculationArg = "auto",
        grammar: Grammar | None = None,
        conversation: str | None = None,
        want_logits: bool = False,
        want_progress: bool = False,
        reply: Reply = "text",
        **keywords: Any,
    ) -> EngineRequest:
        """The arguments of `generate` and `stream` as what the engine takes, with an id of its own.

        Raises:
            ParameterError: bad parameters. GeminateError: the LLM is closed.
        """
        if self._closed:
            raise GeminateError("this LLM is closed; make a new one")
        params = sampling(params, keywords)
        if grammar is not None and not isinstance(grammar, Grammar):
            raise ParameterError(f"grammar must come from llm.grammars.compile, not be {type(grammar).__name__}")
        wanted = parse_speculation(speculation)
        if wanted == "auto":
            self.measure_costs()
        return EngineRequest(
            request_id=f"llm-{next(self._numbers)}",
            prompt_ids=ids,
            sampling=self.resolve(params),
            speculation=wanted,
            grammar=None if grammar is None else grammar.source,
            conversation=conversation,
            want_logits=want_logits,
            want_progress=want_progress,
            reply=reply,
        )

    def check_weights(self) -> None:
        """Read all packed weights of target and drafter and compare them with their checksums.

        Raises:
            WeightsError: damage; a file of the cache is removed, so that loading again packs it anew.
        """
        self.pair.target.store.check()
        if self.pair.drafter is not None:
            self.pair.drafter.store.check()

    def forget(self, conversation: str) -> None:
        """Free the KV cache that `stream` keeps under a name; unknown names are fine."""
        self.service.forget(conversation)

    def close(self) -> None:
        """Stop: running requests end with an error, and the LLM cannot be used afterwards."""
        if not self._closed:
            self._closed = True
            self.service.stop()
            if self.prefix_store is not None:
                self.prefix_store.close()
            if self._grammars is not None:
                self._grammars.close()

    def __repr__(self) -> str:
        located = self.pair.located
        drafter = "None" if located.drafter is None else repr(located.drafter.name)
        name = "embedded" if located.target == embedded_pair()[0] else located.target.name
        return f"LLM({name!r}, drafter={drafter}, weights={self.pair.target.store.format!r})"

    def chat_request(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        enable_thinking: bool | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        speculation: SpeculationArg = "auto",
        grammar: Grammar | None = None,
        **keywords: Any,
    ) -> EngineRequest:
        """The arguments of `chat` as what the engine takes.

        Raises:
            GeminateError: bad messages or parameters.
        """
        ids = self.chat_ids(
            messages,
            tools=tools,
            enable_thinking=enable_thinking,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
        )
        if isinstance(grammar, Grammar) and open_thought(self._need_tokenizer(), ids) is not None:
            grammar = self.grammars.behind_thought(grammar)
        reply: Reply = "tools" if tools else "chat"
        return self.request(ids, params, speculation=speculation, grammar=grammar, reply=reply, **keywords)


def _prefix_store(pair: Pair, options: LoadOptions, on_message: Message | None) -> PrefixStore | None:
    """The store of these options; None, and a message, where it cannot be used: answers do not need it."""
    if options.prefix_store is None:
        return None
    say = on_message or (lambda text: None)
    assert isinstance(options.prefix_store_bytes, int)  # `LoadOptions` has read it
    try:
        return PrefixStore(
            options.prefix_store,
            limit=options.prefix_store_bytes,
            identity=kv_identity(pair),
            factory=pair.target.kv,
            say=say,
        )
    except PrefixStoreError as error:
        say(f"{error}; going on without it")
        return None


def _with_ends(config: TargetConfig, ends: Sequence[int]) -> TargetConfig:
    """The configuration with all tokens that end a turn: fine-tunes are often saved with some of them only."""
    known = config.eos_token_ids
    return replace(config, eos_token_ids=(*known, *(t for t in ends if t not in known and t < config.vocab_size)))

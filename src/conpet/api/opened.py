"""A run folder brought to memory: the state of its last commit, and the data of its tasks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from conpet.adapters.pool import Pool
from conpet.backbones.base import Backbone
from conpet.backbones.compiled import compile_layers
from conpet.backbones.loading import DTYPES, load_backbone
from conpet.backbones.trunk import Trunk
from conpet.config import RunConfig
from conpet.encoding.encode import EncodedTask, Encoder, TokenStore
from conpet.errors import ConfigError
from conpet.evaluation.memo import AnswerMemo
from conpet.methods.base import Method, PhaseSpec, State
from conpet.objectives.classify import ReadOut
from conpet.objectives.generate import Decoding
from conpet.replay.base import Replay
from conpet.replay.dynamic import DynamicReplay, FullReplay, NoReplay
from conpet.replay.logits import LogitCache
from conpet.replay.memory import Budget, MemoryReplay
from conpet.replay.trunk import TrunkCache
from conpet.runtime import RunFolder, read_json, resolve_device, set_threads
from conpet.training.history import load_task
from conpet.training.store import RunStore
from conpet.types import Task

SHORTEST_PROMPT = 16
GIB = 2**30


@dataclass
class OpenRun:
    """What the verbs on a run work with.

    Attributes:
        data: the learned tasks with their examples; None where the run was opened to predict only.
        truncated: texts that were too long, of each task that ``encode`` has seen.
        memo: free answers to the tests, so that they are not written twice.
    """

    folder: RunFolder
    config: RunConfig
    method: Method
    store: RunStore
    state: State
    data: list[Task] | None = field(default=None, repr=False)
    truncated: dict[str, int] = field(default_factory=dict)
    memo: AnswerMemo = field(default_factory=AnswerMemo)

    def encode(self, tasks: Iterable[Task]) -> None:
        """Encode tasks that are to be learned: one that does not fit is found now, not hours later.

        Raises DataError where entities and prompt do not fit the model together.
        """
        store = self.state.store
        for task in tasks:
            before = store.encoder.truncated
            self._encoded(task, -1, -1)
            self.truncated[task.name] = store.encoder.truncated - before

    def add_task(self, task: Task) -> None:
        """Encode a task and make it the newest of the state."""
        state = self.state
        state.history.append(self._encoded(task, len(state.history), state.n_classes))
        state.text = task

    def encode_later(self, task: Task, index: int) -> EncodedTask:
        """A task that is to be answered before it is learned."""
        return self._encoded(task, index, -1)

    def _encoded(self, task: Task, index: int, first_column: int) -> EncodedTask:
        state = self.state
        if state.inputs is not None:  # the same examples in the same order have the same rows
            state.inputs.add_task(task, index, first_column)
        return state.store.add_task(task, index, first_column)


def open_run(folder: RunFolder, config: RunConfig, *, with_data: bool) -> OpenRun:
    """The last commit of a run; ``with_data`` adds the learned tasks' examples."""
    store, method = RunStore(folder), config.build_method()
    state = _new_state(folder, config, method, with_data=with_data)
    state.modules = dict(method.modules(state))
    run = OpenRun(folder, config, method, store, state, [] if with_data else None)
    if with_data and state.writes:
        run.memo = AnswerMemo(folder.answers)
    for index, record in enumerate(store.tasks):
        task = Task(record["name"], tuple(record["labels"]), (), (), ())
        if run.data is not None:
            task = load_task(history_path(folder, index))
            run.data.append(task)
        run.add_task(task)
    store.restore(state, lazily=not with_data)  # before learning, all is checked
    state.planned = store.record.get("planned", 1)
    return run


def history_path(folder: RunFolder, index: int) -> Path:
    """Where the data of the task ``index`` (from 0) lie."""
    return folder.history / f"{index + 1:02d}.jsonl.gz"


def precision_of(folder: RunFolder) -> str:
    """What ``precision: auto`` was resolved to when the run began."""
    return read_json(folder.environment)["precision"]


def _new_state(folder: RunFolder, config: RunConfig, method: Method, *, with_data: bool) -> State:
    """A state that has learned nothing yet."""
    set_threads(config.threads)
    device = resolve_device(config.device)
    c, t, g = config.backbone, config.train, config.generation
    facts = read_json(folder.stream)
    kind, template = facts["kind"], facts.get("template", "")
    quantisation = None if c.quantisation == "none" else c.quantisation
    backbone = load_backbone(
        c.name,
        dtype=c.dtype,
        attention=c.attention,
        quantisation=quantisation,
        device=str(device),
        layers=c.layers,
        generative=bool(template),
    )
    trunk = trunk_of(config, backbone)
    half = torch.bfloat16 if precision_of(folder) == "bf16" else None
    if half is not None and config.adapter.kind != "full":  # whose weights train, in fp32
        backbone.compute_in(half)
    pool = pool_of(config, backbone)
    if c.compile:
        compile_layers(backbone, pool.adapters.hooked)
    encode = partial(encoder_of, config, backbone, template, n_tasks=len(facts["fingerprints"]))
    tokens = folder.tokens if with_data else None
    return State(
        backbone=backbone,
        pool=pool,
        store=TokenStore(encode(c.prompt), tokens),
        inputs=TokenStore(encode("plain"), tokens) if "{instruction}" in template else None,
        replay=replay_of(config),
        logits=LogitCache(folder.logits if with_data else None),
        spec=spec_of(config),
        read_out=read_out_of(c.read_out, kind, backbone.kind),
        seed=config.seed,
        token_budget=t.token_budget,
        autocast=half,
        trunk=trunk,
        kept=TrunkCache(
            trunk.key(half, c.trunk_dtype) if trunk else "",
            folder.trunk if trunk and with_data else None,
            None if c.trunk_dtype == "auto" else DTYPES[c.trunk_dtype],
            round(c.trunk_gib * GIB),
        ),
        decoding=Decoding(
            max_new_tokens=g.max_new_tokens,
            sample=g.sample,
            temperature=g.temperature,
            top_k=g.top_k,
            top_p=g.top_p,
            repetition_penalty=g.repetition_penalty,
            seed=config.seed,
        ),
    )


def encoder_of(
    config: RunConfig, backbone: Backbone, template: str, prompt: str, *, n_tasks: int
) -> Encoder:
    """What makes ids of examples; ``template`` is empty where answers are classes.

    A text is as long after the first task as after the last: it has the room that all soft prompts
    of the ``n_tasks`` that the run began with leave.
    """
    return Encoder(
        backbone.tokenizer,
        max_length=_longest(config, backbone, n_tasks, text=bool(template)),
        prompt=prompt,
        backbone_kind=backbone.kind,
        template=template,
        max_answer_length=config.generation.max_new_tokens,
    )


def pool_of(config: RunConfig, backbone: Backbone) -> Pool:
    """An empty pool of the adapters that a configuration describes."""
    a = config.adapter
    return Pool(
        backbone,
        kind=a.kind,
        rank=a.rank,
        alpha=a.alpha,
        dropout=a.dropout,
        targets=a.targets,
        size=a.size,
        placement=a.placement,
        activation=None if a.activation == "auto" else a.activation,
        length=a.length,
        bottleneck=a.bottleneck,
        layers=a.layers,
        position=a.position,
    )


def trunk_of(config: RunConfig, backbone: Backbone) -> Trunk | None:
    """The layers below all adapters, where they are to be run by themselves.

    Raises:
        ConfigError: they are to be, and cannot.
    """
    wanted, upper = config.backbone.keep_trunk, config.adapter.layers
    if wanted is False or (wanted == "auto" and upper is None):
        return None
    try:
        return Trunk(backbone, len(backbone.layers) if upper is None else upper)
    except ConfigError:
        if wanted is True:
            raise
        return None


def spec_of(config: RunConfig) -> PhaseSpec:
    """How a phase is optimised, unless the method says otherwise."""
    t = config.train
    return PhaseSpec(
        epochs=t.epochs,
        max_steps=t.max_steps,
        batch_size=t.batch_size,
        eval_batch_size=t.eval_batch_size,
        lr=t.lr,
        schedule=t.schedule,
        weight_decay=t.weight_decay,
        eps=t.eps,
        clip=t.clip,
        select=t.select,
        accumulate=t.accumulate,
    )


def check_room(run: OpenRun, n_tasks: int) -> None:
    """ConfigError where the soft prompts of more tasks than the run began with leave no room for
    texts as long as it has them."""
    state, c = run.state, run.config
    beside, text = _beside(c, n_tasks), state.store.encoder.max_length
    answer = c.generation.max_new_tokens if state.writes and state.backbone.kind == "decoder" else 0
    if beside and beside + text + answer > state.backbone.max_length:
        raise ConfigError(
            f"the soft prompts of {n_tasks} tasks take {beside} tokens, and texts of this run up "
            f"to {text}{f' and answers {answer}' if answer else ''}: together more than the "
            f"{state.backbone.max_length} of backbone '{state.backbone.name}'. Learn fewer tasks, "
            "or begin a new run with a smaller adapter.length or shorter texts"
        )


def _beside(config: RunConfig, n_tasks: int) -> int:
    """Tokens that soft prompts take beside a text once so many tasks are learned."""
    if config.adapter.kind != "prompt":
        return 0
    return config.adapter.length * int(config.build_method().prompts(n_tasks))


def _longest(config: RunConfig, backbone: Backbone, n_tasks: int, *, text: bool) -> int:
    """Tokens of an input. Soft prompts and prefixes need places beside it, and a decoder for its
    answer behind it."""
    prefix = config.adapter.kind == "prefix"
    before = config.adapter.length if prefix else _beside(config, n_tasks)
    if text and prefix and backbone.kind == "encoder-decoder":
        _check_answer_behind_prefix(config, backbone)
        before = 0  # it is the decoder that has the prefix
    room = backbone.max_length - before
    if before and room < SHORTEST_PROMPT:
        many = before // config.adapter.length
        more = f" in each of {many} soft prompts" if many > 1 else ""
        raise ConfigError(
            f"adapter.length is {config.adapter.length}{more}, which leaves {max(0, room)} of the "
            f"{backbone.max_length} tokens of backbone '{backbone.name}' for a text beside "
            f"{'them' if many > 1 else 'a prefix' if prefix else 'a soft prompt'}; lower it to "
            f"{(backbone.max_length - SHORTEST_PROMPT) // many} or less"
        )
    if not text:
        return min(config.backbone.max_length, room)
    behind = config.generation.max_new_tokens if backbone.kind == "decoder" else 0
    room -= behind
    if room < SHORTEST_PROMPT:
        raise ConfigError(
            f"generation.max_new_tokens is {behind}, which leaves {max(0, room)} of the "
            f"{backbone.max_length} tokens of backbone '{backbone.name}' for a prompt; lower it to "
            f"{backbone.max_length - before - SHORTEST_PROMPT} or less"
        )
    return min(config.generation.max_prompt_length, room)


def _check_answer_behind_prefix(config: RunConfig, backbone: Backbone) -> None:
    before, behind = config.adapter.length, config.generation.max_new_tokens
    if before + behind > backbone.max_length:
        raise ConfigError(
            f"adapter.length is {before} and generation.max_new_tokens {behind}, more than the "
            f"{backbone.max_length} tokens of backbone '{backbone.name}' together; lower one of "
            "them"
        )


def read_out_of(how: str, stream_kind: str, backbone_kind: str) -> ReadOut:
    """``auto``: mask for entity prompts, mean for plain text, last for causal backbones."""
    if how != "auto":
        return how  # type: ignore[return-value]
    if stream_kind in ("typing", "relation"):
        return "mask"
    return "last" if backbone_kind == "decoder" else "mean"


def replay_of(config: RunConfig) -> Replay:
    """The replay that a configuration describes; nothing is kept yet."""
    r, kind = config.replay, config.replay_kind
    if kind == "dynamic":
        return DynamicReplay(r.batch_limit, r.new_to_old)
    if kind == "memory":
        return MemoryReplay(
            Budget(config.per_class, r.total, r.share),
            config.selection,
            r.features,
            r.new_to_old,
            r.frequency,
            r.batch_limit if r.epoch == "limit" else None,
            r.valid_share,
        )
    return FullReplay() if kind == "full" else NoReplay()

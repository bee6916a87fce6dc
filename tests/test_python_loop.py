"""The model and its optimizer in a user's own loop: hooks, wrappers, every way to clear a gradient.

BERT's clipping norm counts the word table's gradient by its sources. These tests hold that it does
so through every door by which gradients are made, changed and cleared.
"""

import copy
import warnings

import pytest
import torch
from helpers import ROUNDING, roundings, run_ranks
from model_helpers import TINY, gradients, tiny, tiny_inputs, tiny_loss
from torch import nn
from torch.nn.utils import parametrize, prune

from modeling import BertForPreTraining, BertForSequenceClassification
from optimization import PLAIN_NORM, create_optimizer

HEADS = (BertForPreTraining, BertForSequenceClassification)
EXACT = 256 * ROUNDING


# So that the plain norm is never used unnoticed.
pytestmark = pytest.mark.filterwarnings("error")


def model_and_optimizer(head=BertForPreTraining, **changes):
    model = tiny(head, **{"initializer_range": 0.5, **changes}).train()
    return model, create_optimizer(model, 1e-3, 100, 0)


def table_of(model):
    return model.bert.embeddings.word_embeddings


def reference(head, **changes):
    """The norm of the first step, by another optimizer on the same weights."""
    model, optimizer = model_and_optimizer(head, **changes)
    tiny_loss(model).backward()
    return optimizer.global_norm().item()


# --- modules that are called ---------------------------------------------------------------------


class LoRA(nn.Module):
    """What PEFT puts in the place of a dense layer."""

    def __init__(self, base, rank=4):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Linear(base.in_features, rank, bias=False)
        self.b = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x):
        return self.base(x) + self.b(self.a(x))


def attentions(model):
    return [layer.attention.self for layer in model.bert.encoder.layer]


def train(model, optimizer, steps=50):
    """The losses of some steps on the same batch."""
    losses = []
    for _ in range(steps):
        loss = tiny_loss(model)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_a_wrapper_of_query_and_value_trains():
    model = tiny(BertForSequenceClassification, initializer_range=0.3).requires_grad_(False)
    for attention in attentions(model):
        attention.query, attention.value = LoRA(attention.query), LoRA(attention.value)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    outputs = model(*tiny_inputs())
    plain = tiny(BertForSequenceClassification, initializer_range=0.3)
    assert roundings(outputs, plain(*tiny_inputs())) < 64
    adapters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(adapters) == 3 * 2 * 2

    losses = train(model, create_optimizer(model, 3e-2, 100, 0))
    assert losses[-1] < 0.9 * losses[0]
    assert (model(*tiny_inputs()) - outputs).abs().max() > 0.01
    tiny_loss(model).backward()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) != (name in adapters), name
    assert all(p.grad.abs().max() > 0 for p in adapters.values())


def test_peft_trains_adapters():
    peft = pytest.importorskip("peft")
    model = tiny(BertForSequenceClassification, initializer_range=0.3)
    frozen = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    outputs = model(*tiny_inputs()).detach()
    config = peft.LoraConfig(r=4, target_modules=["query", "value"], lora_dropout=0.0)
    wrapped = peft.get_peft_model(model, config)
    adapters = {name for name, p in wrapped.named_parameters() if p.requires_grad}
    assert len(adapters) == 3 * 2 * 2 and all("lora_" in name for name in adapters)
    losses = train(wrapped.base_model.model, create_optimizer(wrapped, 3e-2, 100, 0))
    assert losses[-1] < 0.9 * losses[0]
    assert (wrapped(*tiny_inputs()) - outputs).abs().max() > 0.01
    for name, tensor in wrapped.base_model.model.state_dict().items():
        if "lora_" not in name:
            assert torch.equal(tensor, frozen[name.replace(".base_layer", "")]), name


def hooked(attention, calls):
    attention.query.register_forward_hook(lambda *_: calls.append("forward"))


def hooked_before(attention, calls):
    attention.key.register_forward_pre_hook(lambda *_: calls.append("pre"))


def hooked_backward(attention, calls):
    attention.value.register_full_backward_hook(lambda *_: calls.append("backward"))


def hooked_before_backward(attention, calls):
    attention.value.register_full_backward_pre_hook(lambda *_: calls.append("pre backward"))


def replaced_forward(attention, calls):
    forward = attention.query.forward
    attention.query.forward = lambda x: (calls.append("replaced"), forward(x))[1]


@pytest.mark.parametrize(
    "change", [hooked, hooked_before, hooked_backward, hooked_before_backward, replaced_forward]
)
def test_hooks_of_a_projection_are_called(change):
    model, calls = tiny(BertForSequenceClassification), []
    wanted = tiny_loss(model)
    change(attentions(model)[1], calls)
    loss = tiny_loss(model)
    loss.backward()
    assert len(calls) == 1 and roundings(loss, wanted) < 64


def test_hooks_of_all_modules_are_called():
    model, called = tiny(BertForSequenceClassification), []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: called.append(m))
    try:
        tiny_loss(model)
    finally:
        handle.remove()
    projections = [
        getattr(a, name) for a in attentions(model) for name in ("query", "key", "value")
    ]
    assert all(sum(m is projection for m in called) == 1 for projection in projections)


def test_pruned_and_parametrised_projections_act():
    for change in (
        lambda query: prune.l1_unstructured(query, "weight", amount=0.9),
        lambda query: parametrize.register_parametrization(query, "weight", nn.Tanh()),
    ):
        model = tiny(BertForSequenceClassification, initializer_range=0.5)
        plain = model(*tiny_inputs())
        change(attentions(model)[0].query)
        outputs = model(*tiny_inputs())
        assert (outputs - plain).abs().max() > 1e-3
        with torch.no_grad():  # The weight that the change makes, in a plain layer.
            weight = attentions(model)[0].query.weight.clone()
        by_hand = tiny(BertForSequenceClassification, initializer_range=0.5)
        attentions(by_hand)[0].query.weight.data = weight
        assert roundings(outputs, by_hand(*tiny_inputs()), 1.0) < 64
        tiny_loss(model).backward()
        assert all(p.grad.abs().max() > 0 for p in attentions(model)[0].query.parameters())


def test_a_quantized_model_is_near():
    if "onednn" in torch.backends.quantized.supported_engines:
        torch.backends.quantized.engine = "onednn"
    model = tiny(BertForSequenceClassification, initializer_range=0.2).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, that there is a newer way
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    assert type(attentions(quantized)[0].query) is not nn.Linear
    with torch.no_grad():
        wanted, outputs = model(*tiny_inputs()), quantized(*tiny_inputs())
    assert 0 < (outputs - wanted).abs().max() < 0.2 * wanted.abs().max()


class Wrapper(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.calls = base, 0

    def forward(self, *inputs):
        self.calls += 1
        return self.base(*inputs)


def test_a_wrapped_or_replaced_word_table_serves_look_up_and_decoder():
    model, optimizer = model_and_optimizer()
    tiny_loss(model).backward()
    wrapped, _ = model_and_optimizer()
    wrapped.bert.embeddings.word_embeddings = Wrapper(table_of(wrapped))
    its_optimizer = create_optimizer(wrapped, 1e-3, 100, 0)
    tiny_loss(wrapped).backward()
    assert table_of(wrapped).calls == 1
    assert its_optimizer.global_norm() == optimizer.global_norm()
    assert torch.equal(table_of(wrapped).base.weight.grad, table_of(model).weight.grad)

    other, _ = model_and_optimizer()
    larger = nn.Embedding(TINY["vocab_size"], TINY["hidden_size"])  # as other libraries resize
    larger.weight.data = table_of(other).weight.data
    other.bert.embeddings.word_embeddings = larger
    tiny_loss(other).backward()
    assert roundings(larger.weight.grad, table_of(model).weight.grad) < 256


# --- gradients are made and cleared --------------------------------------------------------------

CLEAR = {
    "optimizer": lambda model, optimizer: optimizer.zero_grad(),
    "optimizer, to 0": lambda model, optimizer: optimizer.zero_grad(set_to_none=False),
    "optimizer, reuse": lambda model, optimizer: optimizer.zero_grad(reuse_memory=True),
    "model": lambda model, optimizer: model.zero_grad(),
    "model, to 0": lambda model, optimizer: model.zero_grad(set_to_none=False),
    "by hand": lambda model, optimizer: [setattr(p, "grad", None) for p in model.parameters()],
    "data": lambda model, optimizer: [p.grad.data.zero_() for p in model.parameters()],
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("clear", CLEAR)
def test_every_way_to_clear_the_gradients(head, clear):
    model, optimizer = model_and_optimizer(head)
    wanted = reference(head)
    for _ in range(3):
        tiny_loss(model).backward()
        assert optimizer.global_norm().item() == wanted
        CLEAR[clear](model, optimizer)
    assert optimizer.global_norm() == 0


@pytest.mark.parametrize("head", HEADS)
def test_two_backward_passes_add_up(head):
    """As two micro-steps: look-ups add their squares, the decoder's gradients add themselves."""
    model, optimizer = model_and_optimizer(head)
    tiny_loss(model).backward()
    sources = table_of(model).sources
    squared = sources.squared.item()
    others = optimizer.global_norm().item() ** 2 - squared
    tiny_loss(model).backward()
    norm = optimizer.global_norm().item()
    assert norm == pytest.approx((2 * squared + 4 * others) ** 0.5, rel=EXACT)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("factor", [0.125, 3.0, 1e-4])
def test_scaled_gradients_scale_the_norm(head, factor):
    """A loss scaler, a user's clipping, a division by micro-steps: before or between passes."""
    wanted = reference(head)
    model, optimizer = model_and_optimizer(head)
    tiny_loss(model).backward()
    for p in model.parameters():
        p.grad.data.mul_(factor)
    assert optimizer.global_norm().item() == pytest.approx(factor * wanted, rel=EXACT)

    whole, its_optimizer = model_and_optimizer(head)
    (tiny_loss(whole) * factor).backward()
    for each in (model, whole):
        tiny_loss(each).backward()
    norms = [each.global_norm().item() for each in (optimizer, its_optimizer)]
    assert norms[0] == pytest.approx(norms[1], rel=EXACT)


@pytest.mark.parametrize("head", HEADS)
def test_torchs_clipping_before_a_step(head):
    model, optimizer = model_and_optimizer(head)
    tiny_loss(model).backward()
    before = optimizer.global_norm().item()
    plain = nn.utils.clip_grad_norm_(model.parameters(), 0.01).item()
    assert optimizer.global_norm().item() == pytest.approx(before * 0.01 / plain, rel=1e-3)


def test_a_gradient_that_is_kept_stays():
    model, optimizer = model_and_optimizer()
    tiny_loss(model).backward()
    kept = table_of(model).weight.grad
    optimizer.step()
    optimizer.zero_grad()
    values = kept.clone()
    tiny_loss(model).backward()
    assert torch.equal(kept, values) and kept is not table_of(model).weight.grad


@pytest.mark.parametrize("head", HEADS)
def test_a_pass_that_does_not_reach_the_weight_leaves_no_trace(head):
    model, optimizer = model_and_optimizer(head)
    wanted = reference(head)
    torch.autograd.grad(tiny_loss(model), [table_of(model).weight])
    tiny_loss(model).backward()
    assert optimizer.global_norm().item() == wanted

    def fail(_):
        raise MemoryError("as if there were none left")

    model.zero_grad()
    handle = model.bert.embeddings.position_embeddings.weight.register_hook(fail)
    with pytest.raises(MemoryError):
        tiny_loss(model).backward()
    handle.remove()
    model.zero_grad()
    tiny_loss(model).backward()
    assert optimizer.global_norm().item() == wanted


# --- frozen tables -------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("head", HEADS)
def test_a_frozen_table_does_not_count(head, when):
    model = tiny(head, initializer_range=0.5)
    table = table_of(model)
    if when == "before":
        table.weight.requires_grad_(False)
    optimizer = create_optimizer(model, 1e-3, 100, 0)
    table.weight.requires_grad_(False)
    before = table.weight.clone()
    for _ in range(2):
        tiny_loss(model).backward()
        grads = gradients(model).values()
        wanted = torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()
        norm = optimizer.step()
        assert norm.item() == pytest.approx(wanted.item(), rel=EXACT)
        optimizer.zero_grad()
    assert torch.equal(table.weight, before)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("how", ["hook before", "hook after", "by hand"])
def test_a_partly_frozen_table_counts_its_free_rows(head, how):
    """Only new words are trained, say: the rows of all others have no gradient."""
    free = torch.tensor([2, 3, 7])
    mask = torch.zeros(TINY["vocab_size"], 1)
    mask[free] = 1
    model = tiny(head, initializer_range=0.5)
    weight = table_of(model).weight
    if how == "hook before":
        weight.register_hook(lambda grad: grad * mask)
    optimizer = create_optimizer(model, 1e-3, 100, 0)
    if how == "hook after":
        weight.register_hook(lambda grad: grad * mask)
    tiny_loss(model).backward()
    if how == "by hand":
        weight.grad[mask[:, 0] == 0] = 0

    plain, its_optimizer = model_and_optimizer(head)
    tiny_loss(plain).backward()
    sources = table_of(plain).sources
    table = sources.row_squares[free].sum()
    if head is BertForPreTraining:
        table = table + sources.decoder[free].square().sum()
    others = [g for name, g in gradients(plain).items() if "word_embeddings" not in name]
    wanted = (table + sum(grad.square().sum() for grad in others)).sqrt()
    assert optimizer.global_norm().item() == pytest.approx(wanted.item(), rel=EXACT)
    assert wanted < 0.999 * its_optimizer.global_norm()


def test_what_cannot_be_known_counts_with_its_plain_norm_and_says_so_once():
    for spoil in (
        lambda model: table_of(model).weight.grad.add_(torch.randn(99, 32)),
        lambda model: table_of(model).weight.square().sum().backward(),
        lambda model: setattr(table_of(model).weight, "grad", torch.randn(99, 32)),
    ):
        model, optimizer = model_and_optimizer()
        tiny_loss(model).backward()
        spoil(model)
        grads = gradients(model).values()
        wanted = torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()
        with pytest.warns(UserWarning, match="by the plain norm") as seen:
            norm = optimizer.global_norm()
        assert norm.item() == pytest.approx(wanted.item(), rel=EXACT)
        assert [str(each.message) for each in seen] == [PLAIN_NORM]
        optimizer.step()  # without a second word
        optimizer.zero_grad()
        tiny_loss(model).backward()
        assert table_of(model).sources.known == 1


# --- copies and moves ----------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("when", ["fresh", "with gradients"])
def test_a_deep_copy_is_its_own_model(head, when):
    model, optimizer = model_and_optimizer(head)
    if when == "with gradients":
        tiny_loss(model).backward()
    twin, its_optimizer = copy.deepcopy((model, optimizer))
    for each, its in ((model, optimizer), (twin, its_optimizer)):
        its.zero_grad()
        losses = train(each, its, 10)
        assert losses[-1] < losses[0]
    assert roundings(table_of(twin).weight, table_of(model).weight) == 0
    tiny_loss(twin).backward()
    assert its_optimizer.global_norm() > 0 and optimizer.global_norm() == 0


@pytest.mark.parametrize("head", HEADS)
def test_other_memory_for_the_weights_after_the_optimizer_was_made(head):
    wanted_model, its_optimizer = model_and_optimizer(head)
    wanted = train(wanted_model, its_optimizer, 5)
    model, optimizer = model_and_optimizer(head)
    for p in model.parameters():
        p.data = p.data.clone()
    model.to(torch.device("cpu"))
    assert train(model, optimizer, 5) == wanted
    state = {name: tensor.clone() for name, tensor in wanted_model.state_dict().items()}
    model.load_state_dict(state)
    assert torch.equal(table_of(model).weight, table_of(wanted_model).weight)


def test_an_average_of_weights_follows():
    model, optimizer = model_and_optimizer()
    average = torch.optim.swa_utils.AveragedModel(model)
    train(model, optimizer, 3)
    average.update_parameters(model)
    tiny_loss(average.module).backward()
    assert table_of(average.module).sources is not table_of(model).sources
    assert optimizer.global_norm() == 0


def test_a_whole_model_can_be_pickled(tmp_path):
    model, optimizer = model_and_optimizer()
    train(model, optimizer, 2)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert tiny_loss(loaded) == tiny_loss(model)


# --- other doors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("unscale", [False, True])
def test_grad_scaler_trains_as_without_it(head, unscale):
    model, optimizer = model_and_optimizer(head)
    wanted = train(model, optimizer, 10)
    scaled, its_optimizer = model_and_optimizer(head)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    losses = []
    for _ in range(10):
        loss = tiny_loss(scaled)
        scaler.scale(loss).backward()
        if unscale:
            scaler.unscale_(its_optimizer)
        scaler.step(its_optimizer)
        scaler.update()
        its_optimizer.zero_grad()
        losses.append(loss.item())
    assert roundings(torch.tensor(losses), torch.tensor(wanted)) < 64
    assert roundings(table_of(scaled).weight, table_of(model).weight) < 256


def test_grad_scaler_skips_a_step_that_overflowed():
    model, optimizer = model_and_optimizer()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = table_of(model).weight.clone()
    for overflow in (True, False):
        scaler.scale(tiny_loss(model)).backward()
        if overflow:
            table_of(model).weight.grad[3, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=False)
        assert torch.equal(table_of(model).weight, before) == overflow
        assert optimizer.param_groups[0]["step"] == (not overflow)
    assert scaler.get_scale() == 512


def test_a_group_that_is_added_joins_the_schedule():
    """As with layers that are unfrozen one after another."""
    model = tiny(BertForSequenceClassification).train()
    model.bert.encoder.layer[0].requires_grad_(False)
    optimizer = create_optimizer(model, 1e-3, 10, 2)
    for _ in range(5):
        tiny_loss(model).backward()
        optimizer.step()
        optimizer.zero_grad()
    added = model.bert.encoder.layer[0].requires_grad_(True)
    optimizer.add_param_group({"params": [*added.parameters()]})
    *others, new = optimizer.param_groups
    assert optimizer.get_lr(new) == optimizer.get_lr(others[0]) == pytest.approx(5e-4)


def test_the_state_of_another_optimizer_is_named():
    model, optimizer = model_and_optimizer()
    state = torch.optim.AdamW(model.parameters()).state_dict()
    with pytest.raises(ValueError, match="not that of a BERTAdam: its groups have no warmup, t_to"):
        optimizer.load_state_dict(state)


def test_a_closure_is_called():
    model, optimizer = model_and_optimizer()
    plain, its_optimizer = model_and_optimizer()

    def closure():
        optimizer.zero_grad()
        loss = tiny_loss(model)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(5)]
    assert losses == train(plain, its_optimizer, 5)


DDP = """
import sys, torch, torch.distributed as dist
from model_helpers import tiny, tiny_inputs, BATCH
from modeling import BertForPreTraining, BertForSequenceClassification
from optimization import create_optimizer

dist.init_process_group("gloo")
rank = dist.get_rank()
for head in (BertForSequenceClassification, BertForPreTraining):
    for view in (False, True):
        model = tiny(head, initializer_range=0.5).train()
        optimizer = create_optimizer(model, 1e-3, 100, 0)
        replica = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=view)
        mine = slice(6 * rank, 6 * rank + 6)
        inputs = [x[mine] for x in tiny_inputs()]
        labels = (torch.arange(BATCH) % 2)[mine]
        more = [labels]
        if head is BertForPreTraining:
            positions = torch.zeros(6, 2, dtype=torch.long)
            more = [positions, positions + 5, torch.ones(6, 2), labels]
        single = tiny(head).train()  # one process with the batch of both
        its_optimizer = create_optimizer(single, 1e-3, 100, 0)
        its_inputs, its_more = [x[:12] for x in tiny_inputs()], [(torch.arange(BATCH) % 2)[:12]]
        if head is BertForPreTraining:
            positions = torch.zeros(12, 2, dtype=torch.long)
            its_more = [positions, positions + 5, torch.ones(12, 2), *its_more]
        worst = 0.0
        for step in range(10):
            single.load_state_dict(model.state_dict())
            (20 * single(*its_inputs, *its_more)[0]).backward()
            ranks, dist.get_world_size = dist.get_world_size, lambda: 1
            wanted = its_optimizer.global_norm().item()
            dist.get_world_size = ranks
            its_optimizer.zero_grad()

            (20 * replica(*inputs, *more)[0]).backward()
            norm = optimizer.step().item()
            optimizer.zero_grad(set_to_none=bool(step % 2))
            assert norm > 1, "the clipping must be active"
            worst = max(worst, abs(norm / wanted - 1))
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        both = [torch.empty_like(weights) for _ in range(2)]
        dist.all_gather(both, weights)
        assert torch.equal(*both)
        print(f"{head.__name__} {view} {rank}: {wanted:.4f} {worst:.1e}", flush=True)
        # The mean loss of masked words has 1e-5 in its denominator, beside 12 or 24.
        assert worst < 2e-6, worst
dist.destroy_process_group()
"""


def test_a_users_own_ddp_loop_takes_the_same_step_on_all_ranks(tmp_path):
    (tmp_path / "loop.py").write_text(f"import sys; sys.path[:0] = ['.', 'tests']\n{DDP}", "utf-8")
    outcome = run_ranks(2, "-W", "error::UserWarning:__main__", tmp_path / "loop.py").ok()
    assert outcome.out.count("BertFor") == 8 and "plain norm" not in outcome.err

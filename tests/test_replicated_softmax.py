"""Replicated softmax: gradients, moves and partition functions of documents of every length against enumeration."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from helpers.cli import assert_refused, digest, ebm, facts, last_step
from helpers.components import FALSE_ALARM, component, shipped
from helpers.models import randomised
from helpers.training import gradients
from scipy import stats

from ebm_cli import registry, rng
from ebm_cli.chains import Chains
from ebm_cli.log_z import enumeration
from ebm_cli.rng import stream
from ebm_cli.sampler.base import run
from ebm_cli.sampler.length_exchange import exchanged
from ebm_cli.space import Counts

K, LENGTH, HIDDEN = 4, 3, 2


def small(length=LENGTH, hidden=HIDDEN, **changes):
    config = shipped("model")["replicated_softmax"] | {"hidden": hidden} | changes
    spec = registry.build("model", config)
    return randomised(spec.build(Counts((K,), length), torch.full((K,), 1 / K), stream(1, "model")))


def documents(length):
    return Counts((K,), length).documents(length).double()


def log_sequences(x):
    """log of the number of sequences of words that have the counts x."""
    return torch.lgamma(x.sum(1) + 1) - torch.lgamma(x + 1).sum(1)


def exact_log_z(model, length):
    """Summed over all documents of this length, with their numbers of sequences."""
    x = documents(length)
    return (log_sequences(x) - model.energy(x)).logsumexp(0)


def data():
    """Documents of three lengths."""
    return torch.tensor([[1, 0, 2, 0], [0, 3, 0, 0], [1, 1, 1, 2], [0, 1, 0, 0]]).double()


def test_documents_are_all_there_once():
    for length in (1, 2, 5):
        x = documents(length)
        assert len(x) == math.comb(length + K - 1, K - 1)
        assert len(x.unique(dim=0)) == len(x)
        assert (x.sum(1) == length).all()
        assert x.min() >= 0


def test_energy_is_that_of_the_joint_with_the_hidden_units_summed_out():
    model, x = small(), data()
    states = torch.tensor([[i & 1, i >> 1] for i in range(4)]).double()
    joint = [-(x @ model.b) - x.sum(1) * (h @ model.c) - x @ model.W @ h for h in states]
    torch.testing.assert_close(model.energy(x), -(-torch.stack(joint)).logsumexp(0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("length", [1, 3, 6])
def test_the_partition_function_of_each_length_is_the_sum_over_its_sequences(length):
    model = small()
    found = enumeration.log_z_of_lengths(model, torch.tensor([length, 2 * length]))
    due = torch.stack([exact_log_z(model, length), exact_log_z(model, 2 * length)])
    torch.testing.assert_close(found, due, rtol=1e-12, atol=0)


def by_hand(model, x, length_factor):
    """E_data - E_model of the derivatives of -E, by the formulas and a sum over all documents of each length."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row in x:
        d = row.sum()
        every = documents(int(d))
        p = (log_sequences(every) - model.energy(every)).softmax(0)
        for rows, weight in ((row[None], torch.ones(1).double()), (every, -p)):
            on = (rows @ model.W + d * model.c).sigmoid()
            total["W"] += torch.einsum("n,nk,nj->kj", weight, rows, on)
            total["b"] += weight @ rows
            total["c"] += (d if length_factor else 1) * (weight @ on)
    return {name: -value.detach() / len(x) for name, value in total.items()}


@pytest.mark.parametrize("x", [documents(LENGTH)[[0, 5, 5, 12]], data()], ids=["one length", "several"])
def test_gradient_of_the_likelihood_is_the_derived_one_with_the_length(x):
    model = small()
    objective = component("objective", "exact")
    found, metrics = gradients(objective, model, x, None)
    loss = -torch.stack([-model.energy(row[None])[0] - exact_log_z(model, int(row.sum())) for row in x]).mean()
    names = [name for name, _ in model.named_parameters()]
    autograd = dict(zip(names, torch.autograd.grad(loss, [*model.parameters()]), strict=True))
    assert metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-12)
    with torch.no_grad():
        derived = by_hand(model, x, length_factor=True)
        without = by_hand(model, x, length_factor=False)
    for name in names:
        torch.testing.assert_close(found[name], derived[name], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(autograd[name], derived[name], rtol=1e-9, atol=1e-12)
    assert not torch.allclose(without["c"], autograd["c"], rtol=0.1)


@pytest.mark.parametrize("setting", ["exact", "without_length"])
def test_gradient_of_the_energy_leaves_out_the_length_where_that_is_asked_for(setting):
    model, x = small(bias_gradient=setting), data()
    energy = model.energy(x)
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0]).double()
    due = dict(zip("Wbc", torch.autograd.grad(energy, [model.W, model.b, model.c], weight), strict=True))
    if setting == "without_length":
        due["c"] = -(weight[:, None] * model.hidden_logits(x).sigmoid()).sum(0).detach()
    found = model.energy_vjp(x)[1](weight)
    for name in "Wbc":
        torch.testing.assert_close(found[name], due[name], rtol=1e-10, atol=1e-12)


SAMPLERS = {"block_gibbs": (60, {}), "metropolis": (200, {}), "metropolis-3": (200, {"flips": 3})}


@pytest.mark.quick("1-block_gibbs", "4-block_gibbs")
@pytest.mark.parametrize("label", SAMPLERS)
@pytest.mark.parametrize("length", [1, 4])
def test_chains_come_to_the_distribution_over_documents_of_their_own_length(label, length):
    steps, changes = SAMPLERS[label]
    model, sampler, chains = small(length), component("sampler", label.partition("-")[0], **changes), 4000
    x = model.space.noise(chains, stream(2, label)).double()
    end, _ = run(sampler, model, x, steps, stream(3, label))
    every = documents(length)
    p = (log_sequences(every) - model.energy(every)).softmax(0).detach()
    index = (end[:, None] == every).all(2).int().argmax(1)
    assert (end == every[index]).all()
    kept = p * chains >= 5
    count = torch.bincount(index, minlength=len(p)).double()
    observed = torch.cat([count[kept], count[~kept].sum()[None]])
    due = torch.cat([p[kept], p[~kept].sum()[None]]) * chains
    observed, due = (observed, due) if due[-1] > 0 else (observed[:-1], due[:-1])
    assert stats.chisquare(observed, due).pvalue > FALSE_ALARM


def test_the_next_word_is_drawn_from_the_ratio_of_documents_with_it():
    model, x = small(), data()
    each = torch.eye(K).double()
    due = torch.stack([-model.energy(x + word) for word in each], 1).log_softmax(1)
    torch.testing.assert_close(model.log_next_word(x), due, rtol=1e-10, atol=1e-12)


def test_multinomial_counts_have_their_law_and_length():
    logits = torch.tensor([0.0, 1.0, -1.0, -torch.inf]).expand(3000, -1)
    number = torch.tensor([0, 3, 200]).repeat(1000)
    x = rng.multinomial(number, logits, stream(0, "m"))
    assert torch.equal(x.sum(1).long(), number)
    assert (x[:, 3] == 0).all()
    p = logits[0].softmax(0)[:3].double()
    for of in (3, 200):
        rows = x[number == of][:, :3].sum(0)
        assert stats.chisquare(rows, p / p.sum() * rows.sum()).pvalue > FALSE_ALARM
    variance = x[number == 200].var(0)[:3].double()
    torch.testing.assert_close(variance, 200 * p * (1 - p), rtol=0.25, atol=0)  # five standard errors of 1000 rows


def test_a_draw_between_two_values_is_the_upper_one():
    """The uniform number u takes value k where F(k - 1) <= u < F(k): one of probability zero is never drawn."""
    edges, points = torch.tensor([0.0, 0.25, 0.25, 1.0]), torch.tensor([0.5, 0.25, 0.0])
    assert rng._found(edges, points).tolist() == [1, 3, 3]


def test_each_row_of_a_multinomial_is_the_same_among_others():
    logits, number = rng.normal((6, 9), stream(0, "l")), torch.tensor([3, 900, 0, 70, 1, 64])
    key = stream(0, "m")
    whole = rng.multinomial(number, logits, key)
    apart = [rng.multinomial(number[i : i + 2], logits[i : i + 2], key.after(i)) for i in (0, 2, 4)]
    assert torch.equal(whole, torch.cat(apart))


def test_a_long_row_among_many_and_rows_in_parts_change_nothing(monkeypatch):
    logits, number, key = rng.normal((50, 9), stream(0, "l")), torch.arange(50) % 7, stream(0, "m")
    number[31] = 900
    whole = rng.multinomial(number, logits, key)
    assert torch.equal(whole.sum(1).long(), number)
    for rows in (slice(30, 33), slice(0, 31), slice(31, 50)):
        assert torch.equal(whole[rows], rng.multinomial(number[rows], logits[rows], key.after(rows.start)))
    monkeypatch.setattr(rng, "_SHARES", 40)
    assert torch.equal(whole, rng.multinomial(number, logits, key))


def test_thinned_counts_are_draws_without_replacement():
    counts = torch.tensor([5.0, 0.0, 2.0, 1.0]).expand(4000, -1)
    x = rng.thinned(counts, torch.full((4000,), 3), stream(0, "thin"))
    assert (x <= counts).all()
    assert (x.sum(1) == 3).all()
    law = stats.multivariate_hypergeom([5, 0, 2, 1], 3)
    states = [s for s in documents(3).int().tolist() if all(a <= b for a, b in zip(s, [5, 0, 2, 1], strict=True))]
    observed = [int((x == torch.tensor(s).float()).all(1).sum()) for s in states]
    assert stats.chisquare(observed, [4000 * law.pmf(s) for s in states]).pvalue > FALSE_ALARM


def test_thinning_to_more_than_there_is_keeps_everything():
    counts = torch.tensor([[5.0, 0.0], [0.0, 0.0], [1.0, 2.0]])
    assert torch.equal(rng.thinned(counts, torch.tensor([9, 2, 3]), stream(0, "thin")), counts)


def test_persistent_chains_take_the_lengths_of_the_batch_rank_by_rank():
    space = Counts((K,), 3)
    x = torch.tensor([[9.0, 0, 0, 0], [0, 1, 0, 0], [0, 2, 2, 0]])
    like = torch.tensor([[2.0, 2, 2, 2], [0, 0, 0, 4], [1, 2, 0, 0]])
    found = space.conformed(x, like, stream(0, "c"))
    assert torch.equal(found.sum(1), torch.tensor([8.0, 3, 4]))
    assert torch.equal(found[2], x[2])  # of the right length already
    assert ((found > 0) <= (x > 0)).all()
    assert torch.equal(found[0], torch.tensor([8.0, 0, 0, 0]))
    assert torch.equal(space.conformed(x, like.repeat(5, 1), stream(0, "c")).sum(1), torch.tensor([8.0, 3, 4]))


def test_transitions_rise_in_equal_parts():
    chains: Chains = component("chains", "data", steps=1, final_steps=5)
    assert [chains.transitions(step, 10) for step in range(10)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [component("chains", "data", steps=2).transitions(step, 10) for step in (0, 9)] == [2, 2]
    falling = component("chains", "data", steps=3, final_steps=2)
    assert [falling.transitions(step, 4) for step in range(4)] == [3, 3, 2, 2]
    assert chains.transitions(10, 10) == 5


def test_noise_has_the_length_of_the_space():
    x = Counts((K,), 7).noise(5, stream(0, "n"))
    assert (x.sum(1) == 7).all()
    assert Counts((K,), 7).contains(x)
    assert not Counts((K,), 7).contains(torch.zeros(1, K))
    assert not Counts((K,), 7).contains(x / 2)


def test_exchanges_swap_neighbours_by_length_with_their_probability():
    """Pairs of lengths (10 m + 1, 10 m + 4), whose states have s and s + 0.2 or the reverse."""
    pairs = 4000
    length = (10.0 * torch.arange(pairs)[:, None] + torch.tensor([1.0, 4.0])).flatten()
    up = torch.arange(pairs) % 2 == 0
    s = torch.stack([torch.where(up, 0.0, 0.2), torch.where(up, 0.2, 0.0)], 1).flatten()
    order = rng.permutation(2 * pairs, stream(0, "order"))
    owner, rate = exchanged(torch.arange(2 * pairs), length[order], s[order], 0, stream(0, "swap"))
    assert torch.equal(owner.sort().values, torch.arange(2 * pairs))
    swapped = torch.empty(2 * pairs).index_copy(0, order, rate).reshape(pairs, 2)
    assert torch.equal(swapped[:, 0], swapped[:, 1])
    assert (swapped[~up] == 1).all()  # the longer document comes to the higher s
    assert stats.binomtest(int(swapped[up, 0].sum()), pairs // 2, math.exp(-3 * 0.2)).pvalue > FALSE_ALARM
    second, _ = exchanged(torch.arange(5), torch.arange(5.0), torch.zeros(5), 1, stream(0, "swap"))
    assert second.tolist() == [0, 2, 1, 4, 3]


@pytest.mark.long
def test_exchanging_chains_keep_the_distribution_of_every_length():
    """From exact draws on, so that an error of one step shows; in many small batches, so that neighbours differ."""
    model, length, batches = small(hidden=3), torch.tensor([1.0, 3, 6, 12]).double(), 800
    h = torch.tensor([[i & 1, i >> 1 & 1, i >> 2] for i in range(8)]).double()
    p = (length[:, None] * model.log_marginal(h).detach()).softmax(1)
    assert (p[0] - p[-1]).abs().max() > 0.3  # lengths differ in what they prefer
    sampler, ends, rates = component("sampler", "length_exchange", exchanges=2), [], []
    for i in range(batches):
        drawn = h[rng.categorical(p.log(), stream(i, "h"))]
        x = rng.multinomial(length, model.word_logits(drawn).detach(), stream(i, "x"))
        end, info = run(sampler, model, x, 1, stream(i, "run"))
        ends.append(rng.bernoulli(model.hidden_logits(end), stream(i, "last")))
        rates.append(info["exchange_rate"].mean())
        assert torch.equal(end.sum(1), length)
    assert 0.1 < torch.stack(rates).mean() < 0.9
    state = (torch.stack(ends).double() @ torch.tensor([1.0, 2.0, 4.0]).double()).long()
    for column, due in zip(state.T, p, strict=True):
        kept = due * batches >= 5
        observed = torch.bincount(column, minlength=8)[kept]
        assert stats.chisquare(observed, due[kept] / due[kept].sum() * observed.sum()).pvalue > FALSE_ALARM


DOCUMENTS = (
    "train model=replicated_softmax model.hidden=3 dataset=bag_of_words dataset.path=texts dataset.max_documents=1.0 "
    "batch_size=10 log_every=1 tracker=none device=cpu checkpoint.monitor=null hydra.run.dir=run"
)


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Thirty documents of 3 to 7 words on two subjects in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    for i in range(30):
        words = [("alpha", "gamma")[i % 2]] * (2 + i % 3) + [("beta", "delta")[i % 2]] * (1 + i % 4)
        Path(f"texts/{i}.txt").write_text(" ".join(words))


@pytest.mark.long
@pytest.mark.parametrize("choice", ["", "chains=replay chains.size=40", "objective=cd sampler=block_gibbs"])
def test_resumed_from_its_first_checkpoint_a_run_ends_as_before(choice, texts):
    line = f"{DOCUMENTS} steps=9 save_every=3 chains.final_steps=3 evaluation=[] {choice}"
    assert ebm(line).code == 0
    run = Path("run")
    whole = digest(last_step(run) / "state.safetensors"), digest(run / "metrics.jsonl")
    _, *later = sorted(run.glob("checkpoints/step-*"))
    assert len(later) == 2
    for path in later:
        shutil.rmtree(path)
    assert ebm("train resume=run").code == 0
    assert whole == (digest(last_step(run) / "state.safetensors"), digest(run / "metrics.jsonl"))


@pytest.mark.long
def test_enumeration_of_the_hidden_units_trains_and_measures(texts):
    assert ebm(f"{DOCUMENTS} objective=exact steps=200 optimizer.lr=0.03 evaluation=[exact]").code == 0
    found = facts(Path("run"), "summary.json")
    assert found["exact/perplexity"] < 2.5  # two words of each subject, where the four alone have some 4
    assert "exact/log_z" not in found


REFUSED = {
    "objective=exact model.bias_gradient=without_length": "model.bias_gradient = without_length: objective=exact needs",
    "objective=exact model.hidden=30": "30 hidden units, enumeration goes to 20",
    "sampler=gibbs": "samplers that fit: block_gibbs, length_exchange, metropolis",
    "model=rbm": "models that fit: replicated_softmax",
    "objective=pseudo_likelihood": "objectives that fit model=replicated_softmax: cd, cd_replay, exact, ml_replay, pcd",
    "sampler=metropolis sampler.adapt=0.5": "counts data have no step_size",
    "sampler=length_exchange sampler.exchanges=0": "sampler.exchanges = 0",
}


@pytest.mark.quick("model=rbm*", "objective=exact model.hidden*", "sampler=gibbs*")
@pytest.mark.parametrize("line", REFUSED)
def test_what_does_not_go_with_documents_is_one_sentence(line, texts):
    assert_refused(ebm(f"{DOCUMENTS} {line}"), REFUSED[line])

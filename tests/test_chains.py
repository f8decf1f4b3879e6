"""Chain policies: where negatives start, and that every chain goes back into the very slot it came from."""

import pytest
import torch
from helpers.components import INTERPOLATED, SIGMAS, component, shipped
from helpers.keys import COUNTING, ENGINES, form

from ebm_cli import registry
from ebm_cli.chains import put
from ebm_cli.rng import stream
from ebm_cli.space import Binary, Real

SIZE = INTERPOLATED["${batch_size}"]
POLICIES = list(shipped("chains"))
STORED = [name for name in POLICIES if registry.components("chains")[shipped("chains")[name]["name"]].stored]
policies = pytest.mark.parametrize("name", POLICIES)
stored_policies = pytest.mark.parametrize("name", STORED)
SPACE = Real((2,))


def small(name, **changes):
    """A shipped policy with a store of 40 slots at most, and without restarts."""
    smaller = {"size": 40, "count": 9, "restart": 0.0}
    config = shipped("chains")[name]
    return component("chains", name, **({k: v for k, v in smaller.items() if k in config} | changes))


def draw(policy, store, batch, space, key):
    """Start positions of one training step, and the slots they go back to."""
    slots = policy.choose(len(batch), key)
    return start(policy, store, slots, batch, space, key), slots


def start(policy, store, slots, batch, space, key, step=0):
    """Start positions of the chains in these slots, or of as many as there are rows."""
    fresh = policy.fresh(len(slots) or len(batch), step, key, batch.device)
    return policy.draw(store[slots], fresh, batch, space, key)


def rows(n, start=100.0):
    """n distinguishable rows of SPACE, none of which noise would give."""
    return start + torch.arange(n).float()[:, None].expand(n, 2).clone()


def test_every_policy_has_a_file():
    assert {config["name"] for config in shipped("chains").values()} == set(registry.components("chains"))


@policies
def test_starts_are_as_many_as_their_slots_and_in_the_space(name):
    policy = small(name)
    space = Binary((2, 3))
    data = space.noise(policy.slots, stream(0, "data"))
    store = policy.init(space, data, stream(0, "init"))
    assert store.shape == (policy.slots, 2, 3)
    x, slots = draw(policy, store, space.noise(SIZE, stream(0, "batch")), space, stream(0, "draw"))
    assert space.contains(x)
    assert x.shape[1:] == (2, 3)
    assert len(slots) == (len(x) if policy.stored else 0)
    assert slots.dtype == torch.int64
    assert len(slots.unique()) == len(slots)
    assert not policy.in_order or torch.equal(slots, torch.arange(policy.slots))


@stored_policies
def test_a_stored_chain_goes_on_where_it_stopped(name):
    """With x + 1 for a sampler, the value of a slot counts how often that very slot was drawn."""
    policy = small(name)
    store = torch.zeros(policy.slots, 2)
    drawn = torch.zeros(policy.slots)
    for step in range(30):
        x, slots = draw(policy, store, rows(SIZE), SPACE, stream(0, "draw", step))
        assert torch.equal(x[:, 0], drawn[slots])
        before = store.clone()
        put(store, slots, x + 1)
        drawn[slots] += 1
        others = torch.ones(policy.slots, dtype=torch.bool).index_fill(0, slots, False)  # noqa: FBT003
        assert torch.equal(store[others], before[others])
    assert torch.equal(store[:, 0], drawn)
    assert drawn.min() > 0, "a slot that is never drawn"


@policies
def test_what_is_drawn_is_not_the_store_itself(name):
    """A sampler that works in place must change neither the store nor the batch."""
    policy = small(name)
    store, batch = rows(policy.slots, 500.0), rows(SIZE)
    kept = store.clone(), batch.clone()
    x, _ = draw(policy, store, batch, SPACE, stream(0, "draw"))
    if policy.stored:
        x += 1
    assert torch.equal(store, kept[0])
    assert torch.equal(batch, kept[1])


@policies
def test_a_draw_is_a_function_of_its_key(name):
    policy = component("chains", name)
    store = SPACE.noise(policy.slots, stream(0, "store"))
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)  # noqa: TID251
        found.append(draw(policy, store, rows(SIZE), SPACE, stream(3, "draw")))
        assert torch.equal(*(policy.init(SPACE, rows(policy.slots), stream(2, "init")) for _ in range(2)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@policies
@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("source", ["noise", "data"])
def test_some_chains_alone_start_as_among_all(name, engine, source):
    """Rows 3 to 7 of the slots and the batch, with the key at row 3: what splitting among processes relies on."""
    changes = {"start": source, "restart": 0.5, "size": 40, "count": 9}
    policy = component("chains", name, **{k: v for k, v in changes.items() if k in shipped("chains")[name]})
    store, batch, key = rows(policy.slots, 500.0), rows(9), stream(0, "draw")
    slots = policy.choose(len(batch), key)
    whole = start(policy, store, slots, batch, SPACE, form(engine, key))
    part = start(policy, store, slots[3:8], batch[3:8], SPACE, form(engine, key.at_row(3)))
    assert torch.equal(part, whole[3:8])


@policies
def test_counters_draw_from_the_policy_alike(name):
    """In compiled runs, where fresh chains and noise come from a counter: the share restarted, noise of the space."""
    policy = small(name, **({"restart": 0.3, "start": "noise"} if "restart" in shipped("chains")[name] else {}))
    store, batch, fresh, n = rows(policy.slots, 500.0), rows(30), 0, 100
    for step in range(n):
        key = stream(0, "draw", step)
        slots = policy.choose(len(batch), key)
        x = start(policy, store, slots, batch, SPACE, form(COUNTING, key))
        anew = x[:, 0] < 90
        assert len(slots) in (0, len(x))
        assert not len(slots) or torch.equal(x[~anew], store[slots][~anew])
        fresh += anew.double().mean().item() / n
    expected = {"noise": 1.0, "replay": 0.3, "replay_data": 0.3}.get(name, 0.0)
    assert abs(fresh - expected) <= SIGMAS * (expected * (1 - expected) / n / 30) ** 0.5 + 1e-9


def test_data_is_the_batch_itself_each_time():
    x, slots = draw(small("data"), torch.empty(0, 2), rows(5), SPACE, stream(0))
    assert torch.equal(x, rows(5))
    assert len(slots) == 0


def test_noise_is_new_each_time():
    policy = small("noise")
    a, b = (draw(policy, torch.empty(0, 2), rows(5), SPACE, stream(0, "draw", step))[0] for step in (0, 1))
    assert a.shape == (5, 2)
    assert not torch.isin(a, rows(5)).any()
    assert not torch.isin(a, b).any()


def test_persistent_moves_every_chain_in_order():
    policy = small("persistent")
    x, slots = draw(policy, rows(9), rows(SIZE, 500.0), SPACE, stream(0))
    assert torch.equal(x, rows(9))
    assert slots.tolist() == list(range(9))


@pytest.mark.parametrize("name", ["persistent", "replay"])
def test_the_store_starts_at_data_or_at_noise(name):
    """Data rows are taken in order, and again from the first where they are too few."""
    policy = small(name, start="data")
    few = policy.init(SPACE, rows(4), stream(0))
    assert torch.equal(few, rows(4)[torch.arange(policy.slots) % 4])
    assert torch.equal(policy.init(SPACE, rows(policy.slots), stream(0)), rows(policy.slots))
    noise = small(name, start="noise").init(SPACE, rows(policy.slots), stream(0))
    assert noise.abs().max() < 10
    assert len(noise.unique(dim=0)) == policy.slots


def test_the_initial_store_is_a_copy_of_the_data():
    data = rows(40)
    small("replay", start="data").init(SPACE, data, stream(0)).zero_()
    assert torch.equal(data, rows(40))


@pytest.mark.long
def test_replay_draws_every_slot_equally_often():
    """Each of 40 slots is in a batch of 6 with probability 0.15, independently from step to step."""
    policy, steps = small("replay"), 4000
    count = torch.zeros(40)
    for step in range(steps):
        count[draw(policy, rows(40), rows(SIZE), SPACE, stream(0, "draw", step))[1]] += 1
    p = SIZE / 40
    assert ((count - steps * p).abs() < SIGMAS * (steps * p * (1 - p)) ** 0.5).all()


@pytest.mark.quick("0.3-*")
@pytest.mark.parametrize("start", ["noise", "data"])
@pytest.mark.parametrize("restart", [0.0, 0.3, 1.0])
def test_a_share_of_the_replayed_chains_starts_afresh(start, restart):
    """The others go on; a fresh one is new noise, or the batch's row of the same place."""
    policy, size, steps = small("replay", restart=restart, start=start), 30, 300
    fresh = torch.zeros(size)
    for step in range(steps):
        x, slots = draw(policy, rows(40, 500.0), rows(size), SPACE, stream(0, "draw", step))
        anew = x[:, 0] < 400
        assert torch.equal(x[~anew], rows(40, 500.0)[slots][~anew])
        if start == "data":
            assert torch.equal(x[anew], rows(size)[anew])
        else:
            assert (x[anew].abs() < 10).all()
        fresh += anew
    # Each place by itself: binomial with `steps` trials.
    allowed = SIGMAS * (restart * (1 - restart) / steps) ** 0.5
    assert ((fresh / steps - restart).abs() <= allowed).all()


def test_fresh_noise_is_independent_of_what_is_drawn():
    """Slots, the choice of fresh chains and their noise come from three different keys."""
    policy, size = small("replay", restart=1.0, size=5000), 5000
    x, slots = draw(policy, torch.zeros(5000, 2), rows(size), SPACE, stream(0))
    columns = torch.stack([x[:, 0], x[:, 1], slots.float(), torch.arange(size).float()])
    correlation = torch.corrcoef(columns).fill_diagonal_(0)
    assert correlation.abs().max() < SIGMAS / size**0.5


def test_a_batch_larger_than_the_store_moves_the_whole_store():
    x, slots = draw(small("replay"), rows(40), rows(100, 500.0), SPACE, stream(0))
    assert sorted(slots.tolist()) == list(range(40))
    assert torch.equal(x, rows(40)[slots])


def test_put_writes_only_the_chains_that_have_a_slot():
    store = torch.zeros(4, 2)
    put(store, torch.tensor([3, 1]), rows(2))
    assert store[:, 0].tolist() == [0, 101, 0, 100]
    put(store, torch.empty(0, dtype=torch.long), rows(7))
    assert store[:, 0].tolist() == [0, 101, 0, 100]


def test_persistent_chains_all_start_again_after_every_reset():
    policy = small("persistent", reset=3, start="data")
    store, batch = rows(9, 500.0), rows(9)
    for step in range(8):
        x = start(policy, store, torch.arange(9), batch, SPACE, stream(0, "draw", step), step)
        assert torch.equal(x, batch if step in (3, 6) else store), step


def test_a_reservoir_of_the_newest_keeps_starts_and_drops_the_oldest():
    """With the step's number for a sampler: after n steps of 6 chains the 40 slots hold the last 40 ends."""
    policy, store = small("replay", write="oldest"), torch.full((40, 2), -1.0)
    for step in range(9):
        slots = policy.choose(6, stream(0, "draw", step))
        before = store.clone()
        targets = policy.targets(slots, step)
        put(store, targets, torch.full((6, 2), float(step)))
        kept = torch.ones(40, dtype=torch.bool).index_fill(0, targets, False)  # noqa: FBT003
        assert torch.equal(store[kept], before[kept])
    assert store[:, 0].int().tolist() == [6] * 2 + [7] * 6 + [8] * 6 + [2] * 4 + [3] * 6 + [4] * 6 + [5] * 6 + [6] * 4


@policies
def test_in_place_is_the_very_slot(name):
    policy = small(name)
    slots = policy.choose(SIZE, stream(0, "draw"))
    assert torch.equal(policy.targets(slots, 5), slots)


def test_others_are_slots_that_no_chain_of_the_step_has():
    policy = component("chains", "replay", size=1500)
    slots, others = (pick(100, stream(0, "draw")) for pick in (policy.choose, policy.others))
    assert (len(slots), len(others)) == (100, 1000)
    assert len(torch.cat([slots, others]).unique()) == 1100
    assert len(small("persistent").others(5, stream(0))) == 0
